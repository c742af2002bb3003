package mariadb

import (
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"strongroom/source"
)

// refused is an error that stays until somebody changes something.
func refused(format string, args ...any) error {
	return source.WithClass(source.Refused, fmt.Errorf(format, args...))
}

// classed says of an error what it means to whoever decides what to do next.
func classed(err error) error {
	if err == nil || source.ClassOf(err) != source.Failed {
		return err
	}
	if errors.Is(err, errChanged) {
		return source.WithClass(source.Drift, err)
	}
	switch code(err) {
	case errDatabaseAccess, errAccess, errNoDatabase, errTableAccess, errRights:
		return source.WithClass(source.Refused, err)
	case errManyConnections, errShutdown, errUserConnections, errLockTimeout, errUserLimit:
		return source.WithClass(source.Temporary, err)
	case 0:
	default:
		return err
	}
	class := source.ClassOfDial(err)
	if errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) {
		class = source.Temporary
	}
	if class == source.Failed {
		return err
	}
	return source.WithClass(class, err)
}
