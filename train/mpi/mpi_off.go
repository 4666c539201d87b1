//go:build !mpi || !linux

package mpi

import (
	"errors"

	"github.com/tritlm/trit/train"
)

// Join reports that this program was built without MPI.
func Join() (train.Group, error) {
	return nil, errors.New("mpi: this trit was built without MPI; build it on linux with: go build -tags mpi ./cmd/trit")
}
