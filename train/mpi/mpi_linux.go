//go:build mpi && linux

package mpi

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/tritlm/trit/train"
)

// Library names in order of trial; the number is OpenMPI's ABI, 40 for OpenMPI 4 and 5.
var libraries = []string{"libmpi.so.40", "libmpi.so"}

// serialized is MPI_THREAD_SERIALIZED: calls come from any thread, one at a time.
const serialized = 2

type group struct {
	rank, size int
	world      uintptr // MPI_COMM_WORLD
	float      uintptr // MPI_FLOAT
	double     uintptr // MPI_DOUBLE

	alltoall  func(send unsafe.Pointer, n int32, t uintptr, recv unsafe.Pointer, m int32, u uintptr, comm uintptr) int32
	allgather func(send unsafe.Pointer, n int32, t uintptr, recv unsafe.Pointer, m int32, u uintptr, comm uintptr) int32
	finalize  func() int32

	send, recv []float32
}

// Join starts MPI and returns the group of all processes.
func Join() (train.Group, error) {
	var lib uintptr
	var err error
	for _, name := range libraries {
		if lib, err = purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_GLOBAL); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mpi: %w; install OpenMPI (Debian: apt install openmpi-bin libopenmpi3)", err)
	}
	g := &group{}
	for name, at := range map[string]*uintptr{"ompi_mpi_comm_world": &g.world, "ompi_mpi_float": &g.float, "ompi_mpi_double": &g.double} {
		if *at, err = purego.Dlsym(lib, name); err != nil {
			return nil, fmt.Errorf("mpi: the library is not OpenMPI: %w", err)
		}
	}
	var initThread func(argc, argv unsafe.Pointer, required int32, provided *int32) int32
	var commRank, commSize func(comm uintptr, n *int32) int32
	purego.RegisterLibFunc(&initThread, lib, "MPI_Init_thread")
	purego.RegisterLibFunc(&commRank, lib, "MPI_Comm_rank")
	purego.RegisterLibFunc(&commSize, lib, "MPI_Comm_size")
	purego.RegisterLibFunc(&g.alltoall, lib, "MPI_Alltoall")
	purego.RegisterLibFunc(&g.allgather, lib, "MPI_Allgather")
	purego.RegisterLibFunc(&g.finalize, lib, "MPI_Finalize")
	var provided, rank, size int32
	if initThread(nil, nil, serialized, &provided) != 0 || provided < serialized {
		return nil, errors.New("mpi: MPI_Init_thread failed")
	}
	if commRank(g.world, &rank) != 0 || commSize(g.world, &size) != 0 {
		return nil, errors.New("mpi: no communicator")
	}
	g.rank, g.size = int(rank), int(size)
	return g, nil
}

func (g *group) Rank() int { return g.rank }
func (g *group) Size() int { return g.size }

// Sum adds x over all processes: each sums one part and sends the result to all.
func (g *group) Sum(x []float32) error {
	part := (len(x) + g.size - 1) / g.size
	if cap(g.send) < part*g.size {
		g.send, g.recv = make([]float32, part*g.size), make([]float32, part*g.size)
	}
	send, recv := g.send[:part*g.size], g.recv[:part*g.size]
	clear(send[copy(send, x):])
	if g.alltoall(unsafe.Pointer(&send[0]), int32(part), g.float, unsafe.Pointer(&recv[0]), int32(part), g.float, g.world) != 0 {
		return errors.New("mpi: MPI_Alltoall failed")
	}
	for step := 1; step < g.size; step *= 2 { // as train.Group says
		for r := 0; r+step < g.size; r += 2 * step {
			to := recv[r*part : (r+1)*part]
			for i, v := range recv[(r+step)*part : (r+step+1)*part] {
				to[i] += v
			}
		}
	}
	mine := send[:part]
	copy(mine, recv[:part])
	if g.allgather(unsafe.Pointer(&mine[0]), int32(part), g.float, unsafe.Pointer(&recv[0]), int32(part), g.float, g.world) != 0 {
		return errors.New("mpi: MPI_Allgather failed")
	}
	copy(x, recv)
	return nil
}

// SumScalars adds x over all processes in the order of their ranks.
func (g *group) SumScalars(x []float64) error {
	all := make([]float64, len(x)*g.size)
	if g.allgather(unsafe.Pointer(&x[0]), int32(len(x)), g.double, unsafe.Pointer(&all[0]), int32(len(x)), g.double, g.world) != 0 {
		return errors.New("mpi: MPI_Allgather failed")
	}
	clear(x)
	for i, v := range all {
		x[i%len(x)] += v
	}
	return nil
}

// Close ends MPI; all processes must call it.
func (g *group) Close() error {
	if g.finalize() != 0 {
		return errors.New("mpi: MPI_Finalize failed")
	}
	return nil
}
