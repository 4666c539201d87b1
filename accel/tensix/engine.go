package tensix

import (
	"context"
	"errors"
	"fmt"

	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// Backend is the model.Backend of a Blackhole: all ternary products and the screening of the output head run on its
// tiles, everything else (norms, RoPE, attention) on the host in the same code as the CPU engine. The products are
// integers and exact, so the engine's logits are bit-equal to the CPU's.
type Backend struct {
	// Machine is the chip to use; the caller closes it after the engine. Nil: card number Card.
	Machine driver.Machine
	Card    int
	Threads int // of the host's part, 0 for as many as the process may use
	Options Options
	// HostHead leaves the output head to the host: no int8 copy of it is made, and every logit is computed there.
	HostHead bool
	// Opened, if set, is given the device once the model is loaded.
	Opened func(*Device)
}

// Load uploads the model's ternary matrices.
func (b Backend) Load(ctx context.Context, c *model.Config, w *weights.Set) (model.Engine, error) {
	if err := checkModel(c); err != nil {
		return nil, err
	}
	m := b.Machine
	if m == nil {
		var err error
		if m, err = driver.OpenCard(b.Card); err != nil {
			return nil, fmt.Errorf("%w (the CPU engine is there: --device cpu)", err)
		}
	}
	p := &products{own: b.Machine == nil, m: m}
	d, err := Open(m, b.Options)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.d = d
	p.pool = par.New(b.Threads)
	e, err := model.NewDecoder(ctx, c, w, p.pool, p)
	if err != nil {
		return nil, err
	}
	if !b.HostHead && !p.head {
		h, err := loadHead(d, p.pool, c, w)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e = &engine{Engine: e, head: h}
	}
	if b.Opened != nil {
		b.Opened(d)
	}
	return e, nil
}

func loadHead(d *Device, pool *par.Pool, c *model.Config, w *weights.Set) (*head, error) {
	name := "lm_head.weight"
	if c.TiedHead {
		name = "model.embed_tokens.weight"
	}
	m, err := w.Dense(name, c.VocabSize, c.HiddenSize)
	if err != nil {
		return nil, err
	}
	return newHead(d, pool, m)
}

// checkModel refuses models whose products would not be exact or whose shape the tiles cannot hold, before anything
// is uploaded.
func checkModel(c *model.Config) error {
	if !c.Ternary {
		return errors.New("tensix: this model has no ternary weights; use --device cpu")
	}
	return nil
}

// products is model.Products on a Device.
type products struct {
	m        driver.Machine
	own      bool
	d        *Device
	pool     *par.Pool
	matrices []*Matrix
	list     []Product
	head     bool // the output head is ternary and one of the matrices
}

func (p *products) Load(name string, m *ternary.Matrix) (int, error) {
	t, err := p.d.LoadTernary(name, m.T16, m.Rows, m.Cols)
	if err != nil {
		return 0, err
	}
	p.matrices = append(p.matrices, t)
	p.head = p.head || name == "lm_head"
	return len(p.matrices) - 1, nil
}

func (p *products) Multiply(ctx context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error {
	tokens := len(xsum)
	p.list = p.list[:0]
	for i, id := range ids {
		p.list = append(p.list, Product{M: p.matrices[id], Y: y[i], Panel: model.PanelRows})
	}
	return p.d.MatMul(ctx, x, tokens, len(x)/tokens, p.list...)
}

func (p *products) Close() error {
	var errs []error
	if p.pool != nil {
		p.pool.Close()
	}
	if p.d != nil {
		errs = append(errs, p.d.Close())
	}
	if p.own {
		errs = append(errs, p.m.Close())
	}
	return errors.Join(errs...)
}
