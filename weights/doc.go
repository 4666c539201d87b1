// Package weights opens a model as published, a Hugging Face folder or a GGUF file, and hands out its tensors
// under one set of names (those of Hugging Face), whatever the file was.
//
// Ternary matrices arrive as codes and scale (ternary.Matrix), never expanded to float on the way. Other tensors
// stay as the file has them: mapped, not copied, where the layout allows.
package weights
