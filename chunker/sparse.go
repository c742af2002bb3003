package chunker

// sparseSlots bounds a Sparse: 16 MiB. It finds what is a few KiB long in a GiB,
// and longer pieces in a larger base; more would take longer to fill each week
// than it finds.
const sparseSlots = 2 << 20

// A Sparse finds some of the anchors of a whole base, however large that is:
// enough to find a table or a file that moved. It is safe for concurrent use
// once it is filled.
type Sparse struct {
	mask  uint32 // an anchor whose hash has these bits is left out
	shift uint
	slots []uint64 // hash 16 (of what the slot does not say), offset 48; 0: empty
}

// NewSparse returns a table for a base of n bytes.
func NewSparse(n int64) *Sparse {
	s := &Sparse{}
	want := n / 256 // half of the anchors
	for want > sparseSlots/2 {
		want /= 2
		s.mask = s.mask<<1 | 1
	}
	size := uint64(1 << 10)
	s.shift = 22
	for int64(size) < 2*want {
		size *= 2
		s.shift--
	}
	s.slots = make([]uint64, size)
	return s
}

// Takes reports whether the table wants an anchor of that hash.
func (s *Sparse) Takes(hash uint32) bool { return hash&s.mask == 0 }

// Add enters an anchor at an offset of the base, below 1<<47. The first of
// equal ones stays.
func (s *Sparse) Add(end int64, hash uint32) {
	if !s.Takes(hash) || end >= 1<<47 {
		return
	}
	i := hash >> s.shift
	if s.slots[i] == 0 {
		s.slots[i] = uint64(uint16(hash*0x9e3b>>8))<<48 | uint64(end)<<1 | 1
	}
}

// Find returns an offset of the base where an anchor of that hash may lie.
func (s *Sparse) Find(hash uint32) (end int64, ok bool) {
	if !s.Takes(hash) {
		return 0, false
	}
	v := s.slots[hash>>s.shift]
	if v == 0 || uint16(v>>48) != uint16(hash*0x9e3b>>8) {
		return 0, false
	}
	return int64(v << 16 >> 17), true
}
