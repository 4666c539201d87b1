//go:build purego || (!amd64 && !arm64)

package kernel

func tiers() []*tier { return []*tier{&generic} }
