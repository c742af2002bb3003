package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Roles are who uses a bucket, as its policy names principals: at Amazon the
// ARN of a user, at versitygw an access key. Extend and Delete may be empty.
type Roles struct{ Write, Extend, Delete string }

// statement is one of a policy.
type statement struct {
	Sid       string         `json:"Sid"`
	Effect    string         `json:"Effect"`
	Principal any            `json:"Principal"`
	Action    []string       `json:"Action"`
	Resource  []string       `json:"Resource"`
	Condition map[string]any `json:"Condition,omitempty"`
}

var (
	// What reading and listing takes: of versions too, since the lock of each
	// counts.
	readObjects = []string{"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"}
	readBucket  = []string{"s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation"}
	// What ends objects, or the bucket's promise to keep them.
	endObjects = []string{"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutObjectLegalHold", "s3:PutObjectAcl"}
	endBucket  = []string{"s3:DeleteBucket", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutBucketObjectLockConfiguration",
		"s3:PutReplicationConfiguration", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutBucketAcl", "s3:PutBucketOwnershipControls"}
)

// Policy returns a bucket policy, as JSON, that gives each role its rights, and
// denies to those that the daemon has whatever deletes, unlocks, or would let
// the bucket forget. An explicit Deny counts more than any Allow, so rights that
// the users have elsewhere do not matter (Amazon S3 User Guide, "Policy
// evaluation logic"). Nobody may lock for more than days, and the writer may
// not overwrite; with 0 days both are left out, for services that do not know
// the conditions.
func Policy(bucket, prefix string, r Roles, days int) ([]byte, error) {
	if r.Write == "" {
		return nil, errors.New("policy: nobody writes")
	}
	if r.Extend == r.Write {
		r.Extend = ""
	}
	if r.Delete != "" && (r.Delete == r.Write || r.Delete == r.Extend) {
		return nil, errors.New("policy: what deletes must not be what writes or extends")
	}
	p := &policy{objects: "arn:aws:s3:::" + bucket + "/" + prefix + "*", everything: "arn:aws:s3:::" + bucket + "/*", bucket: "arn:aws:s3:::" + bucket}
	p.allow(r)
	p.deny(r)
	if days > 0 {
		p.bound(r, days)
	}
	return json.MarshalIndent(map[string]any{"Version": "2012-10-17", "Statement": p.list}, "", "  ")
}

// policy is one in the making.
type policy struct {
	objects, everything, bucket string // resources
	list                        []statement
}

func (p *policy) add(sid, effect, resource string, actions []string, who ...string) {
	p.list = append(p.list, statement{Sid: sid, Effect: effect, Principal: map[string][]string{"AWS": who}, Action: actions, Resource: []string{resource}})
}

// who leaves out the roles that nobody has.
func who(names ...string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

func (p *policy) allow(r Roles) {
	writes := append([]string{"s3:PutObject"}, readObjects...)
	if r.Extend == "" {
		writes = append(writes, "s3:PutObjectRetention")
	} else {
		p.add("Extend", "Allow", p.objects, append([]string{"s3:PutObjectRetention"}, readObjects...), r.Extend)
	}
	p.add("Write", "Allow", p.objects, writes, r.Write)
	if r.Delete != "" {
		p.add("Delete", "Allow", p.objects, append([]string{"s3:DeleteObject", "s3:DeleteObjectVersion"}, readObjects...), r.Delete)
	}
	p.add("List", "Allow", p.bucket, readBucket, who(r.Write, r.Extend, r.Delete)...)
}

func (p *policy) deny(r Roles) {
	held := who(r.Write, r.Extend)
	p.add("NoDelete", "Deny", p.everything, endObjects, held...)
	p.add("NoForgetting", "Deny", p.bucket, endBucket, held...)
	if r.Extend != "" {
		p.add("WriterLocksNothing", "Deny", p.everything, []string{"s3:PutObjectRetention"}, r.Write)
		p.add("ExtenderWritesNothing", "Deny", p.everything, []string{"s3:PutObject"}, r.Extend)
	}
	if r.Delete != "" {
		p.add("DeleterUnlocksNothing", "Deny", p.everything, []string{"s3:BypassGovernanceRetention", "s3:PutObjectRetention", "s3:PutObject"}, r.Delete)
	}
}

// bound adds what some services do not know. Amazon S3 User Guide, "Enforce
// conditional writes on Amazon S3 buckets": the writer puts new names only, so
// that nothing lies over what is locked. The other key counts
// the days that a lock would last from now.
func (p *policy) bound(r Roles, days int) {
	p.add("NoOverwriting", "Deny", p.everything, []string{"s3:PutObject"}, r.Write)
	p.list[len(p.list)-1].Condition = map[string]any{"Null": map[string]string{"s3:if-none-match": "true"}}
	p.add("NobodyLocksForLong", "Deny", p.everything, []string{"s3:PutObject", "s3:PutObjectRetention"})
	last := &p.list[len(p.list)-1]
	last.Principal = "*"
	last.Condition = map[string]any{"NumericGreaterThan": map[string]string{"s3:object-lock-remaining-retention-days": fmt.Sprint(days)}}
}
