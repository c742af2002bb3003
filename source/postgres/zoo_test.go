package postgres

// zooSQL makes a database with one of everything that has tripped dumps.
const zooSQL = `
CREATE SCHEMA "Odd Schema";
CREATE EXTENSION hstore;
CREATE EXTENSION pgcrypto SCHEMA "Odd Schema";
CREATE EXTENSION lo;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE FUNCTION loud(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper(t) -- ALTER TABLE x OWNER TO y;
$$;
CREATE FUNCTION body(i int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN i > 0 THEN i ELSE 0 END; END;
CREATE FUNCTION noisy() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
ALTER TABLE public.never OWNER TO nobody;
RETURN NEW; END $f$;

CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, gone int, mail text,
	shout text GENERATED ALWAYS AS (upper(name)) STORED, feel mood, n posint, p pair, h hstore, ts timestamptz, iv interval,
	f float8, b bytea, a int[], j jsonb, num numeric);
ALTER TABLE customers DROP COLUMN gone;
INSERT INTO customers (name, mail, feel, n, p, h, ts, iv, f, b, a, j, num)
	SELECT 'name ' || g, CASE WHEN g % 7 = 0 THEN NULL ELSE E'tab\there\nline\\' || g END, 'ok', g, ROW(g, 'x,"y')::pair, 'a=>1', timestamptz '2024-03-31 01:30+01' + g * interval '1 h',
	-interval '1 year 2 mons 3 h', 1.0 / g, decode(md5(g::text), 'hex'), ARRAY[g, NULL], '{"k": "\\u00fc"}', 1.10 FROM generate_series(1, 2000) g;
UPDATE customers SET name = name || '!' WHERE id % 100 = 0;

CREATE TABLE parent (id int, v text);
CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 3);

CREATE TABLE events (at date, id int, what text) PARTITION BY RANGE (at);
CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
CREATE TABLE events_24a PARTITION OF events_24 FOR VALUES IN (1, 2);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT date '2024-06-01', 1 + g % 2, 'e' || g FROM generate_series(1, 100) g;
INSERT INTO events VALUES ('2019-01-01', 5, 'old');
CREATE INDEX ON events (id);
ALTER TABLE events ADD UNIQUE (at, id, what);

CREATE TABLE a (id int PRIMARY KEY, b int);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
BEGIN; INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); COMMIT;

CREATE TABLE secrets (owner name, t text);
INSERT INTO secrets VALUES ('x', 'one'), ('y', 'two');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON secrets USING (owner = current_user);

CREATE UNLOGGED TABLE unlogged (i int); INSERT INTO unlogged VALUES (7);
CREATE TABLE nocols (); INSERT INTO nocols DEFAULT VALUES; INSERT INTO nocols DEFAULT VALUES;
CREATE TABLE empty (i int);
CREATE TABLE onlygen (g int GENERATED ALWAYS AS (4) STORED);
CREATE VIEW v AS SELECT name, loud(mail) FROM customers;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM customers;
CREATE UNIQUE INDEX ON mv (n);
CREATE TRIGGER tr BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION noisy();
ALTER TABLE customers DISABLE TRIGGER tr;
CREATE RULE ru AS ON DELETE TO parent DO INSTEAD NOTHING;
CREATE SEQUENCE free INCREMENT 5 START 50; SELECT nextval('free'), nextval('free');
CREATE SEQUENCE "We""ird'seq"; CREATE SEQUENCE untouched START -3 MINVALUE -10;
CREATE TABLE ser (id serial, d text DEFAULT 'it''s');
INSERT INTO ser (d) VALUES ('x'), (E'\\.'), (''), ('\N');

CREATE TABLE "Odd Schema"."we""ird
table; DROP" ("co""l
x" int, "sel ect" text, "ünï" text);
INSERT INTO "Odd Schema"."we""ird
table; DROP" VALUES (1, 'ü€𝄞', 'z');
CREATE TABLE "Odd Schema"."-- \ $role$" (i int); INSERT INTO "Odd Schema"."-- \ $role$" VALUES (1);
CREATE TABLE "日本" (i int); INSERT INTO "日本" VALUES (1);
COMMENT ON TABLE "日本" IS 'comment; with '' quote
and newline';

CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE elsewhere (i int) SERVER far;
CREATE STATISTICS st ON id, v FROM parent;
CREATE COLLATION germ (provider = icu, locale = 'de-DE');
CREATE CAST (mood AS int) WITH INOUT;
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int);
CREATE PUBLICATION pub FOR TABLE customers, parent;
CREATE FUNCTION onddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER et ON sql_drop EXECUTE FUNCTION onddl();

SELECT lo_create(5001), lo_create(5003), lo_from_bytea(5002, decode(repeat('00ff5c27', 100000), 'hex'));
COMMENT ON LARGE OBJECT 5002 IS 'a scan';
`

// zooRolesSQL adds owners, grants and default rights; %[1]s is an owner, who
// is a member of %[2]s; %[3]s is only granted to.
const zooRolesSQL = `
CREATE TABLE owned (i int PRIMARY KEY); INSERT INTO owned VALUES (1);
ALTER TABLE owned OWNER TO %[1]s; ALTER SCHEMA "Odd Schema" OWNER TO %[1]s;
GRANT SELECT ON owned, customers TO %[3]s; GRANT SELECT (name) ON customers TO PUBLIC;
REVOKE ALL ON FUNCTION loud(text) FROM PUBLIC; GRANT EXECUTE ON FUNCTION loud(text) TO %[3]s WITH GRANT OPTION;
CREATE POLICY theirs ON secrets FOR SELECT TO %[3]s USING (true);
ALTER DEFAULT PRIVILEGES FOR ROLE %[1]s IN SCHEMA "Odd Schema" GRANT SELECT ON TABLES TO %[3]s;
ALTER LARGE OBJECT 5001 OWNER TO %[1]s; GRANT SELECT ON LARGE OBJECT 5002 TO %[3]s;
`
