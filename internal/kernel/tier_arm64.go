//go:build !purego

package kernel

func tiers() []*tier { return []*tier{&generic} }
