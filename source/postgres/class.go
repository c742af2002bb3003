package postgres

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/source"
)

// classed says of an error what it means to whoever decides what to do next, by
// PostgreSQL's table of SQLSTATE.
func classed(err error) error {
	if err == nil || source.ClassOf(err) != source.Failed {
		return err
	}
	if errors.Is(err, errChanged) {
		return source.WithClass(source.Drift, err)
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if class := source.ClassOfDial(err); class != source.Failed {
			return source.WithClass(class, err)
		}
		return err
	}
	switch e.Code {
	case "3D000", "42501": // no such database, no such right
		return source.WithClass(source.Refused, err)
	case "57P01", "57P02", "57P03", "55P03": // it stops, it starts, a lock does not come
		return source.WithClass(source.Temporary, err)
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "28": // who is let in
		return source.WithClass(source.Refused, err)
	case "08", "53": // the connection, and what there is too little of
		return source.WithClass(source.Temporary, err)
	}
	return err
}
