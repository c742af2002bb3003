package walls

import (
	"syscall"

	"strongroom/systemd/probe"
)

// ReaderNames returns the names of a reader's walls, in their order.
func ReaderNames() []string {
	return []string{probe.Devices, probe.Credentials, probe.RawNetwork, probe.Network, probe.Files, probe.Homes, probe.Processes, probe.Powers, probe.Namespaces,
		probe.Code, probe.Calls, probe.Memory, probe.Swap, probe.Cores}
}

// TryReader tries what the unit of a reader must not let it do. The socket is the
// one that the service manager passed, nil where there is none; self is a program
// that ends at once with args. Landlock is not for readers: a drop-in has them
// write where a dataset needs it, and commands are anybody's.
func TryReader(passed syscall.Conn, self string, args ...string) []probe.Wall {
	return []probe.Wall{
		probe.OpenDisks(), probe.ReadCredentials(), probe.MakeRawSockets(), probe.ReachNetwork(passed), probe.MakeFilesByMount("/tmp"), probe.WriteHomes(),
		probe.SeeProcesses(), probe.HavePowers(0), probe.MakeNamespace(self, args...), probe.MapCode(), probe.MakeCall(), probe.LookUpMemory(),
		probe.LookUpSwap(), probe.DumpCores(),
	}
}
