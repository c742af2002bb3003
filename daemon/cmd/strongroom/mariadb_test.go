package main

import (
	"os"
	"strings"
	"testing"

	"strongroom/source/mariadb/mariadbtest"
)

// The menagerie is tested beside the source itself.
const smallMariaDB = `
CREATE TABLE customers (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(50) NOT NULL, mail TEXT, b BLOB, shout VARCHAR(50) AS (UPPER(name)) STORED, KEY (name));
INSERT INTO customers (name, mail, b) SELECT CONCAT('name ', seq), IF(seq % 7 = 0, NULL, CONCAT('tab\there\n', seq)), UNHEX(MD5(seq)) FROM seq_1_to_20000;
CREATE TABLE orders (id INT PRIMARY KEY, customer INT, FOREIGN KEY (customer) REFERENCES customers (id)); INSERT INTO orders VALUES (1, 1), (2, 77);
CREATE TABLE emptied (i INT PRIMARY KEY); INSERT INTO emptied SELECT seq FROM seq_1_to_10;
CREATE VIEW mails AS SELECT mail FROM customers; CREATE TRIGGER g BEFORE INSERT ON orders FOR EACH ROW SET NEW.id = NEW.id + 1;
CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END`

func mariaDataset(name, url string) string {
	return "[[tenant.dataset]]\nname = \"" + name + "\"\nsource = \"mariadb\"\nurl = \"" + url + "\"\n"
}

func TestMariaDBComesBackAfterItWasDropped(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, smallMariaDB)
	want := srv.Dump(t, db)
	user := srv.CreateUser(t, "IDENTIFIED BY 'hunter2'", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON "+db+".* TO %s", "GRANT SELECT ON mysql.proc TO %s")
	stores, paths := threeDirs(t)
	b := newBox(t, stores, "")
	password := b.path("password")
	if err := os.WriteFile(password, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = newBox(t, stores, mariaDataset("crm", srv.URL(db, user))+"password_file = \""+password+"\"\n"+
		"[[tenant.dataset.assert]]\nname = \"customers\"\nsql = \"SELECT COUNT(*) FROM customers\"\nexpect = \"20000\"\n")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	if o := b.run(0, "backup", "acme/crm"); !strings.Contains(o.stdout, "20012 rows, counted by the server too") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "ls", "acme/crm"); !strings.Contains(o.stdout, "20000") {
		t.Errorf("ls shows no rows:\n%s", o.stdout)
	}
	if o := b.run(0, "drill", "run", "acme/crm"); !strings.Contains(o.stdout, "assertions  pass     1 of 1") {
		t.Error(o.stdout)
	}
	to := srv.URL(db, "root")
	if o := b.run(20, "restore", "acme/crm", "--to", to); !strings.Contains(o.stderr, "the database is not empty") {
		t.Error(o.stderr)
	}
	if srv.Dump(t, db) != want {
		t.Fatal("a refused restore changed the database")
	}
	srv.DropDatabase(t, db)
	if o := b.run(20, "restore", "acme/crm", "--to", to); !strings.Contains(o.stderr, "no such database") {
		t.Error(o.stderr)
	}
	if o := b.run(0, "restore", "acme/crm", "--to", to, "--create", "--verify"); !strings.Contains(o.stdout, "read again and equal") {
		t.Error(o.stdout)
	}
	if srv.Dump(t, db) != want {
		t.Error("the restored database dumps differently")
	}

	part := srv.CreateDatabase(t)
	b.run(0, "restore", "acme/crm", "--to", srv.URL(part, "root"), "--only", "orders", "--no-owner")
	if got := srv.Query(t, part, "SELECT CONCAT((SELECT COUNT(*) FROM orders), ' ', (SELECT COUNT(*) FROM customers))"); got != "2 0" {
		t.Errorf("%s rows", got)
	}

	srv.Exec(t, db, "DELETE FROM emptied")
	if o := b.run(0, "backup", "acme/crm"); !strings.Contains(o.stdout, "ANOMALY: emptied had 10 rows and now has none") {
		t.Error(o.stdout)
	}

	// The box and a store are gone.
	for _, p := range []string{paths[0], b.path("state"), b.config} {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
	want = srv.Dump(t, db)
	srv.DropDatabase(t, db)
	b.rescue(0, append(b.shares(2, 4, 5), "--kit", kit, "crm", "--to", to, "--create")...)
	if srv.Dump(t, db) != want {
		t.Error("the database recovered from the kit dumps differently")
	}

	// As plain SQL through the client, to stdout.
	plain := srv.CreateDatabase(t)
	o := b.rescue(0, append(b.shares(1, 2, 3), "--kit", kit, "crm", "--to", "-")...)
	srv.Program(t, o.stdout, "mariadb", "--binary-mode", plain)
	if srv.Dump(t, plain) != want {
		t.Error("the plain SQL gives another database")
	}
	if strings.Contains(o.stdout+o.stderr, "hunter2") {
		t.Error("the password is in what was printed")
	}
}

func TestMariaDBThatCannotBeDumpedIsRefused(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO t VALUES (1)")
	stores, _ := threeDirs(t)
	b := newBox(t, stores, mariaDataset("crm", srv.URL(db, "root"))+mariaDataset("locked", srv.URL(db, "root"))+"lock = true\n"+
		mariaDataset("nobody", srv.URL(db, "nobody"))+mariaDataset("away", "mariadb://nobody@/x?socket=/nowhere"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(20, "backup", "acme/crm"); !strings.Contains(o.stderr, "t (MyISAM): the engine has no transactions") {
		t.Error(o.stderr)
	}
	b.run(20, "backup", "acme/nobody")
	b.run(75, "backup", "acme/away")
	if o := b.run(0, "backup", "acme/locked"); !strings.Contains(o.stdout, "1 row, counted by the server too") {
		t.Error(o.stdout)
	}
}
