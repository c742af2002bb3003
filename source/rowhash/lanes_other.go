//go:build !amd64

package rowhash

var sideBySide = false

type lanes struct{}

func (*lanes) take(s *Sum, p []byte) []byte { return s.oneByOne(p) }

func (*lanes) settle(*Sum) {}
