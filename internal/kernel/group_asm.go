//go:build !purego && (amd64 || arm64)

package kernel

// groupProducts are a tier's parts of GroupMatMul; [planes-1] where there are two.
type groupProducts struct {
	vec    [groupLayouts][2]func(y *float32, tiles int, w *byte, scales *uint16, scaleBytes, shift int, x *byte, group, groups int)
	tokens [2]func(y *float32, stride int, codes *byte, scales *uint16, scaleBytes, shift, first int, x *byte, rowBytes, group, groups, tokens int)
	tiles  int               // that tokens takes at once, 1 or 2; with 2 there is vec for the last one
	few    [groupLayouts]int // up to so many tokens vec is faster, one after the other while a tile is in L1

	unpackT2 func(dst, w *byte, blocks int)
	unpackB1 func(dst, w *byte, blocks int)
	unpackT5 func(dst, w *byte, group int)
}

// groupBlock is the size of activations that stay in L2 while a panel's tiles pass.
const groupBlock = 256 << 10

func (p *groupProducts) matMul(y []float32, stride int, w *GroupMatrix, x *Planes, scratch []byte) {
	groups, tile, rowBytes := w.Cols/w.Group, groupTileBytes(w.Layout, w.Cols, w.Group), x.rowBytes()
	scales, scaleStep := oneScale[:], 0
	if w.Scales != nil {
		scales, scaleStep = w.Scales, TileRows*w.ScaleGroups()
	}
	shift := w.scaleShift()
	vec := p.vec[w.Layout][x.Count-1]
	if x.Tokens == 1 && vec != nil {
		vec(&y[0], w.Rows/TileRows, &w.Codes[0], &scales[0], 2*scaleStep, shift, &x.Data[0], w.Group, groups)
		return
	}
	if x.Tokens <= p.few[w.Layout] {
		for r := 0; r < w.Rows; r += TileRows {
			for t := range x.Tokens {
				vec(&y[t*stride+r], 1, &w.Codes[r/TileRows*tile], &scales[r/TileRows*scaleStep], 2*scaleStep, shift, &x.Data[t*rowBytes], w.Group, groups)
			}
		}
		return
	}
	for t := range x.Tokens {
		clear(y[t*stride:][:w.Rows])
	}
	block := max(groupBlock/rowBytes&^7, 8)
	for t := 0; t < x.Tokens; t += block {
		n := min(block, x.Tokens-t)
		for r := 0; r < w.Rows; r += TileRows * p.tiles {
			codes, s := w.Codes[r/TileRows*tile:], &scales[r/TileRows*scaleStep]
			if p.tiles == 2 && r+TileRows == w.Rows {
				for i := t; i < t+n; i++ {
					vec(&y[i*stride+r], 1, &codes[0], s, 2*scaleStep, shift, &x.Data[i*rowBytes], w.Group, groups)
				}
				break
			}
			for g := 0; g < groups; g += 3 {
				k := min(3, groups-g)
				for i := range p.tiles {
					dst := &scratch[i*(GroupScratch/2)]
					src := codes[i*tile:]
					switch {
					case w.Layout == Binary1:
						p.unpackB1(dst, &src[g*w.Group*2], k*w.Group/32)
					case w.Layout == Ternary2:
						p.unpackT2(dst, &src[g*w.Group*4], k*w.Group/16)
					case k == 3:
						p.unpackT5(dst, &src[g/3*(w.Group/32)*t5Bytes], w.Group)
					default:
						p.unpackT2(dst, &src[g/3*(w.Group/32)*t5Bytes], k*w.Group/16)
					}
				}
				p.tokens[x.Count-1](&y[t*stride+r], 4*stride, &scratch[0], s, 2*scaleStep, shift, g, &x.Data[t*rowBytes+g*x.groupBytes()], rowBytes, w.Group, k, n)
			}
		}
	}
}

func quantizeGroupsWith(f func(dst *byte, x *float32, group, groups, planes int, largest, least float32)) func(dst []byte, x []float32, group, count int) {
	return func(dst []byte, x []float32, group, count int) {
		largest := float32(planeMax16)
		if count == 1 {
			largest = planeMax8
		}
		f(&dst[0], &x[0], group, len(x)/group, count, largest, 1e-30)
	}
}

// hadamardWith returns a tier's Hadamard: near does the steps below the distance first, far two steps, last one.
func hadamardWith(near func(x *float32, n int), far, last func(x *float32, n, h int), first int, mul func(y, x []float32), scale func(y []float32, s float32)) func(x []float32, block int, before, after []float32) {
	return func(x []float32, block int, before, after []float32) {
		if block < first {
			hadamardGeneric(x, block, before, after)
			return
		}
		s := hadamardScale(block)
		for ; len(x) > 0; x = x[block:] {
			b := x[:block]
			if before != nil {
				mul(b, before[:block])
				before = before[block:]
			}
			near(&b[0], block)
			h := first
			for ; 4*h <= block; h *= 4 {
				far(&b[0], block, h)
			}
			if h < block {
				last(&b[0], block, h)
			}
			scale(b, s)
			if after != nil {
				mul(b, after[:block])
				after = after[block:]
			}
		}
	}
}
