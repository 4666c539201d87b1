package tensix

import (
	"context"
	"errors"
	"fmt"
	"strings"

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
	// FeedForward lets the tiles run squared-ReLU feed-forward blocks alone, one job instead of two. On a card the
	// host is expected to be faster at small batches: the norm is done by scalar cores.
	FeedForward bool
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
	var products model.Products = p
	if b.FeedForward {
		products = &feedForwards{products: p}
	}
	e, err := model.NewDecoder(ctx, c, w, p.pool, products)
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
	load := p.d.LoadTernary
	if n := len(p.matrices); n > 0 && strings.HasSuffix(name, ".up_proj") && strings.HasSuffix(p.matrices[n-1].Name, ".gate_proj") {
		load = func(name string, t16 []byte, rows, cols int) (*Matrix, error) {
			return p.d.LoadBeside(p.matrices[n-1], name, t16, rows, cols)
		}
	}
	t, err := load(name, m.T16, m.Rows, m.Cols)
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

// feedForwards is products that run feed-forward blocks, too: a model.FeedForwarder.
type feedForwards struct {
	*products
	list []*FFN
}

func (p *feedForwards) LoadFeedForward(gate, up, down int, norm []float32, eps float32) (int, bool, error) {
	f, err := p.d.NewFFN(p.matrices[gate], p.matrices[up], p.matrices[down], norm, eps)
	if errors.Is(err, ErrShape) {
		return 0, false, nil
	}
	p.list = append(p.list, f)
	return len(p.list) - 1, true, err
}

func (p *feedForwards) FeedForward(ctx context.Context, id int, y []int32, xs []float32, x []int8, gate, up []float32) error {
	tokens := len(xs)
	if err := p.d.FeedForward(ctx, p.list[id], x, tokens, len(x)/tokens, gate, up, Product{Y: y, Panel: model.PanelRows}, xs); err != nil {
		return err
	}
	for i, a := range xs {
		xs[i] = max(a, 1e-5) / 127 // as kernel.QuantizeRow; an infinity or NaN stays one
	}
	return nil
}
