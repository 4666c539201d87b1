// Package model turns weights into logits: the configuration of a decoder, a file per architecture with its tensor
// names in view, the KV cache, and the engine that runs a batch of sequences at different positions.
//
// Every ternary product is an exact integer sum and every float step has one canonical order (internal/kernel), so
// the logits of a token depend on its sequence alone: not on the batch it ran in, the chunk of the prompt, the number
// of threads or the kernels of this machine.
package model
