package spread

import "math/bits"

// maxLosses bounds the choices of lost members that Margin tries. With every
// shard in one place, as it is nearly always, none is tried at all.
const maxLosses = 1 << 17

// Margin returns how many members may be lost, whichever they are, before fewer
// than k distinct shards are left; -1 if there are fewer already. present says
// for each shard which members have it. Where that is too much to try, it is
// less than the truth.
func Margin(present [][]int, k int) int {
	distinct, alone := 0, true
	count := map[int]int{} // member → shards
	for _, at := range present {
		distinct += min(len(at), 1)
		alone = alone && len(at) < 2
		for _, m := range at {
			count[m]++
		}
	}
	if distinct < k {
		return -1
	}
	if alone {
		return loseLargest(count, distinct-k)
	}
	sets := memberSets(present, count)
	members, budget := len(count), maxLosses
	for lost := 1; lost < members; lost++ {
		if !sets.survive(k, lost, members, &budget) {
			return lost - 1
		}
	}
	return max(members-1, 0)
}

// loseLargest counts how many members may go when spare shards may, each of
// which lies in one place.
func loseLargest(count map[int]int, spare int) int {
	var bySize [256]int
	for _, n := range count {
		bySize[min(n, 255)]++
	}
	lost := 0
	for n := 255; n > 0; n-- {
		for range bySize[n] {
			if spare -= n; spare < 0 {
				return lost
			}
			lost++
		}
	}
	return max(lost-1, 0)
}

// shardSets are the holders of each shard as bits.
type shardSets [][4]uint64

func memberSets(present [][]int, count map[int]int) shardSets {
	number := map[int]int{}
	sets := make(shardSets, len(present))
	for i, at := range present {
		for _, m := range at {
			n, ok := number[m]
			if !ok {
				n = len(number)
				number[m] = n
			}
			if n < 256 {
				sets[i][n/64] |= 1 << (n % 64)
			}
		}
	}
	return sets
}

// survive reports whether k shards are left after every loss of so many of the
// members.
func (s shardSets) survive(k, lost, members int, budget *int) bool {
	var gone [4]uint64
	var choose func(from, left int) bool
	choose = func(from, left int) bool {
		if left == 0 {
			*budget--
			return *budget > 0 && s.left(gone) >= k
		}
		for m := from; m <= members-left; m++ {
			gone[m/64] |= 1 << (m % 64)
			if !choose(m+1, left-1) {
				return false
			}
			gone[m/64] &^= 1 << (m % 64)
		}
		return true
	}
	return members <= 256 && choose(0, lost)
}

// left counts the shards that somebody else has.
func (s shardSets) left(gone [4]uint64) int {
	n := 0
	for _, at := range s {
		rest := 0
		for w := range at {
			rest += bits.OnesCount64(at[w] &^ gone[w])
		}
		n += min(rest, 1)
	}
	return n
}
