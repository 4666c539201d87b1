package cpu

import (
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
)

// NeverSkip makes decoding compute every product dense, whatever is zero, until restore is called.
func NeverSkip() (restore func()) {
	columns, rows := columnsPay, rowsPay
	columnsPay, rowsPay = 0, 0
	return func() { columnsPay, rowsPay = columns, rows }
}

// SkipsZeros says whether an engine's products have copies to skip zeros with, both of up_proj and of down_proj.
func SkipsZeros(e model.Engine) bool {
	up, down := false, false
	for _, m := range e.(*engine.Engine).Products().(*cpuProducts).matrices {
		up, down = up || m.byRow != nil, down || m.byColumn != nil
	}
	return up && down
}

// PageBytes is the size of a page of the engine's cache.
func PageBytes(e model.Engine) int64 { return e.(*engine.Engine).PageBytes() }
