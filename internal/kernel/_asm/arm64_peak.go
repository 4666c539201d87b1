package main

func (a *arm) peak(name, doc string, body func(acc, x, y int)) {
	const accs = 16
	a.fn(name, "(turns int)", 0, name+" "+doc)
	a.arg("turns", "R0")
	for i := range accs + 2 {
		a.zero(i)
	}
	a.loop("turn", "R0", func() {
		for i := range accs {
			body(i, accs, accs+1)
		}
	})
	a.p("RET")
}

func peakARM(a *arm) {
	a.peak("peakInt8NEON", "does 16·8 int8 multiply-adds a turn.", func(acc, x, y int) { a.smlal(acc, x, y) })
	a.peak("peakInt8NEONDot", "does 16·16 int8 multiply-adds a turn.", func(acc, x, y int) { a.sdot(acc, x, y, 0) })
	a.peak("peakF32NEON", "does 16·4 float32 multiply-adds a turn.", func(acc, x, y int) { a.fmla(acc, x, y) })

	a.fn("readNEON", "(b []byte)", 0, "readNEON loads b in pieces of 256 bytes.")
	a.ptr("b", "R0")
	a.length("b", "R1")
	a.p("LSR $8, R1")
	a.loop("turn", "R1", func() {
		for i := range 16 {
			a.p("FMOVQ.P 16(R0), F%d", i)
		}
	})
	a.p("RET")
}
