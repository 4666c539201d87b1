package part

// SetSnapshotBytes changes the budget of copies of states, and gives what changes it back.
func SetSnapshotBytes(n int) (back func()) {
	old := snapshotBytes
	snapshotBytes = n
	return func() { snapshotBytes = old }
}

// Snapshots is how many copies of states there are.
func (c *Cache) Snapshots() (own, all int) { return len(c.recurrent.snaps), len(c.from.snaps) }
