// Package model is the contract between a model's files and what runs it: the description of a decoder made of parts, and what
// an engine takes and gives.
//
//	file → family.Read → Config (layers of part.Attention, part.Gated, …) → Backend (model/cpu, accel/…) → Engine → logits
//
// Every ternary product is an exact integer sum and every float step has one canonical order (internal/kernel), so
// the logits of a token depend on its sequence alone: not on the batch it ran in, the chunk of the prompt, the number
// of threads or the kernels of this machine.
package model
