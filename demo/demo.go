// Package demo holds the model inside the program: a small BitNet that trit train made of tiny Shakespeare.
// README.md says how, and with what loss.
package demo

import (
	"embed"
	"io/fs"
)

//go:embed model
var files embed.FS

// FS is the model's Hugging Face folder, for trit.OpenFS.
func FS() fs.FS {
	sub, err := fs.Sub(files, "model")
	if err != nil {
		panic(err) // the folder is in the program
	}
	return sub
}
