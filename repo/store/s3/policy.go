package s3

import (
	"encoding/json"
	"errors"
	"fmt"
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
	separate := r.Extend != "" && r.Extend != r.Write
	if r.Delete != "" && (r.Delete == r.Write || r.Delete == r.Extend) {
		return nil, errors.New("policy: what deletes must not be what writes or extends")
	}
	objects, whole := []string{"arn:aws:s3:::" + bucket + "/" + prefix + "*"}, []string{"arn:aws:s3:::" + bucket}
	everything := []string{"arn:aws:s3:::" + bucket + "/*"}
	is := func(names ...string) map[string][]string { return map[string][]string{"AWS": names} }
	held := []string{r.Write}
	if separate {
		held = append(held, r.Extend)
	}
	all := append([]string{}, held...)
	writes := append([]string{"s3:PutObject"}, readObjects...)
	if !separate {
		writes = append(writes, "s3:PutObjectRetention")
	}
	list := []statement{{Sid: "Write", Effect: "Allow", Principal: is(r.Write), Action: writes, Resource: objects}}
	if separate {
		list = append(list, statement{Sid: "Extend", Effect: "Allow", Principal: is(r.Extend), Action: append([]string{"s3:PutObjectRetention"}, readObjects...), Resource: objects})
	}
	if r.Delete != "" {
		all = append(all, r.Delete)
		list = append(list, statement{Sid: "Delete", Effect: "Allow", Principal: is(r.Delete), Action: append([]string{"s3:DeleteObject", "s3:DeleteObjectVersion"}, readObjects...), Resource: objects})
	}
	list = append(list,
		statement{Sid: "List", Effect: "Allow", Principal: is(all...), Action: readBucket, Resource: whole},
		statement{Sid: "NoDelete", Effect: "Deny", Principal: is(held...), Action: endObjects, Resource: everything},
		statement{Sid: "NoForgetting", Effect: "Deny", Principal: is(held...), Action: endBucket, Resource: whole})
	if separate {
		list = append(list,
			statement{Sid: "WriterLocksNothing", Effect: "Deny", Principal: is(r.Write), Action: []string{"s3:PutObjectRetention"}, Resource: everything},
			statement{Sid: "ExtenderWritesNothing", Effect: "Deny", Principal: is(r.Extend), Action: []string{"s3:PutObject"}, Resource: everything})
	}
	if r.Delete != "" {
		list = append(list, statement{Sid: "DeleterUnlocksNothing", Effect: "Deny", Principal: is(r.Delete),
			Action: []string{"s3:BypassGovernanceRetention", "s3:PutObjectRetention", "s3:PutObject"}, Resource: everything})
	}
	if days > 0 {
		// Amazon S3 User Guide, "Enforce conditional writes on Amazon S3 buckets":
		// the writer puts new names only, so that nothing lies over what is locked.
		list = append(list, statement{Sid: "NoOverwriting", Effect: "Deny", Principal: is(r.Write), Action: []string{"s3:PutObject"}, Resource: everything,
			Condition: map[string]any{"Null": map[string]string{"s3:if-none-match": "true"}}})
		list = append(list, statement{Sid: "NobodyLocksForLong", Effect: "Deny", Principal: "*", Action: []string{"s3:PutObject", "s3:PutObjectRetention"}, Resource: everything,
			Condition: map[string]any{"NumericGreaterThan": map[string]string{"s3:object-lock-remaining-retention-days": fmt.Sprint(days)}}})
	}
	return json.MarshalIndent(map[string]any{"Version": "2012-10-17", "Statement": list}, "", "  ")
}
