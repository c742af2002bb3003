package s3_test

import (
	"context"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
)

func TestTheServiceTellsTheTime(t *testing.T) {
	s := open(t, storetest.StartGateway(t).CreateBucket(t, "strongroom"))
	says, here, err := s.Clock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := says.Sub(here); d > time.Second || d < -2*time.Second || time.Since(here) > time.Minute {
		t.Errorf("it says %v, here it was %v", says, here)
	}
}
