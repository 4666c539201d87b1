//go:build !unix

package mapped

const changeTimes = false
