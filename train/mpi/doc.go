// Package mpi joins the processes that mpirun started into a train.Group, with the OpenMPI 4 of the machine, loaded when
// the program starts. It is compiled in with the build tag mpi, as loading a shared library makes the program a dynamic one.
package mpi
