package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// An AlarmID names an alarm.
type AlarmID int64

// An Alarm is something that is wrong and that a person has to know.
type Alarm struct {
	ID AlarmID `json:"id"`
	// Key says what is wrong with what, "overdue acme/crm". One of a key is open.
	Key     string `json:"key"`
	Kind    string `json:"kind"`
	Tenant  string `json:"tenant,omitempty"`
	Dataset string `json:"dataset,omitempty"`
	// Reason is for the box's own pages; it is not sent.
	Reason string `json:"reason,omitempty"`
	// Code, of a test alarm, proves that a person got it, by Channel: so it is
	// nowhere but in the message.
	Code    string `json:"-"`
	Channel string `json:"channel,omitempty"`

	Raised     time.Time `json:"raised"`
	Seen       time.Time `json:"seen"`
	Times      int       `json:"times"`             // how often it was raised
	Notified   time.Time `json:"notified,omitzero"` // zero: muted when it was raised
	Acked      time.Time `json:"acked,omitzero"`
	AckedBy    string    `json:"acked_by,omitempty"`
	AckReason  string    `json:"ack_reason,omitempty"`
	MutedUntil time.Time `json:"muted_until,omitzero"` // of the mute in force
	MutedBy    string    `json:"muted_by,omitempty"`
	MuteReason string    `json:"mute_reason,omitempty"`
	Cleared    time.Time `json:"cleared,omitzero"` // zero: open
}

// ErrNoReason is of an act that nobody stands for.
var ErrNoReason = errors.New("needs who and why")

// Raise opens an alarm, or says again that it is there, and queues the messages:
// once for each time that it opens, and not while it is muted, but then when
// that ends and it is raised again. The alarm and its messages are one change.
func (d *DB) Raise(ctx context.Context, a Alarm, messages ...Message) (id AlarmID, told bool, err error) {
	now := ms(d.cfg.Now())
	err = d.write(ctx, func(tx *sql.Tx) error {
		var notified sql.NullInt64
		err := tx.QueryRowContext(ctx, `
			INSERT INTO alarms (key, kind, tenant, dataset, reason, code, channel, raised, seen) VALUES (?, ?, ?, ?, ?, nullif(?, ''), ?, ?, ?)
			ON CONFLICT (key) WHERE cleared IS NULL DO UPDATE SET seen = excluded.seen, reason = excluded.reason, times = times + 1
			RETURNING id, notified`,
			a.Key, a.Kind, a.Tenant, a.Dataset, a.Reason, a.Code, a.Channel, now, now).Scan(&id, &notified)
		if err != nil || notified.Valid {
			return err
		}
		if quiet, err := muted(ctx, tx, a.Key, now); quiet || err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE alarms SET notified = ? WHERE id = ?`, now, id); err != nil {
			return err
		}
		told = true
		return d.enqueue(ctx, tx, messages)
	})
	if err != nil {
		return 0, false, fmt.Errorf("raise %s: %w", a.Key, err)
	}
	return id, told, nil
}

func muted(ctx context.Context, tx *sql.Tx, key string, now int64) (yes bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM mutes WHERE key = ? AND began <= ? AND until > ?)`, key, now, now).Scan(&yes)
	return yes, err
}

// Clear ends an alarm, if it is open, and queues the messages if people were
// told of it.
func (d *DB) Clear(ctx context.Context, key string, messages ...Message) (was bool, err error) {
	now := ms(d.cfg.Now())
	err = d.write(ctx, func(tx *sql.Tx) error {
		var notified sql.NullInt64
		err := tx.QueryRowContext(ctx, `UPDATE alarms SET cleared = ? WHERE key = ? AND cleared IS NULL RETURNING notified`, now, key).Scan(&notified)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if was = err == nil; err != nil || !notified.Valid {
			return err
		}
		if quiet, err := muted(ctx, tx, key, now); quiet || err != nil {
			return err
		}
		return d.enqueue(ctx, tx, messages)
	})
	if err != nil {
		return false, fmt.Errorf("clear %s: %w", key, err)
	}
	return was, nil
}

// Acknowledge records that a person knows of an open alarm. It stays open.
func (d *DB) Acknowledge(ctx context.Context, id AlarmID, who, why string) error {
	if err := stands(who, why); err != nil {
		return fmt.Errorf("acknowledge alarm %d: %w", id, err)
	}
	return d.oneAlarm(ctx, fmt.Sprintf("acknowledge alarm %d", id),
		`UPDATE alarms SET acked = ?, acked_by = ?, ack_reason = ? WHERE id = ? AND cleared IS NULL`, ms(d.cfg.Now()), who, why, id)
}

// Answer ends the test alarm that has the code: a person got it.
func (d *DB) Answer(ctx context.Context, code, who string) error {
	if err := stands(who, code); err != nil {
		return fmt.Errorf("answer a test alarm: %w", err)
	}
	now := ms(d.cfg.Now())
	return d.oneAlarm(ctx, "answer a test alarm with that code",
		`UPDATE alarms SET acked = ?1, acked_by = ?2, cleared = ?1 WHERE code = ?3 AND cleared IS NULL`, now, who, code)
}

func (d *DB) oneAlarm(ctx context.Context, what, update string, args ...any) error {
	res, err := d.w.ExecContext(ctx, update, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, fmt.Errorf("%s: %w", what, ErrNotFound))
	}
	return nil
}

// Mute keeps an alarm's key from telling people until a moment. It has an end
// always, or a mute is how a dead backup is forgotten.
func (d *DB) Mute(ctx context.Context, key string, until time.Time, who, why string) error {
	if err := stands(who, why); err != nil {
		return fmt.Errorf("mute %s: %w", key, err)
	}
	now := d.cfg.Now()
	if !until.After(now) || until.Sub(now) > 366*24*time.Hour {
		return fmt.Errorf("mute %s: until %s is not within a year from now", key, until.Format(time.RFC3339))
	}
	return d.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE mutes SET until = ?1 WHERE key = ?2 AND until > ?1`, ms(now), key); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO mutes (key, began, until, by, reason) VALUES (?, ?, ?, ?, ?)`, key, ms(now), ms(until), who, why)
		return err
	})
}

// maxWords bounds what a person may write, in bytes.
const maxWords = 1000

func stands(who, why string) error {
	if strings.TrimSpace(who) == "" || strings.TrimSpace(why) == "" {
		return ErrNoReason
	}
	if len(who)+len(why) > maxWords {
		return fmt.Errorf("more than %d bytes", maxWords)
	}
	return nil
}

// Alarms returns the open ones, oldest first.
func (d *DB) Alarms(ctx context.Context) ([]Alarm, error) { return d.alarms(ctx, `cleared IS NULL`) }

// LastAlarm returns the last one of a kind, open or not.
func (d *DB) LastAlarm(ctx context.Context, kind string) (Alarm, error) {
	all, err := d.alarms(ctx, `a.id = (SELECT max(id) FROM alarms WHERE kind = ?2)`, kind)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("alarm of kind %s: %w", kind, ErrNotFound)
	}
	if err != nil {
		return Alarm{}, err
	}
	return all[0], nil
}

func (d *DB) alarms(ctx context.Context, where string, args ...any) ([]Alarm, error) {
	rows, err := d.r.QueryContext(ctx, `
		SELECT a.id, a.key, kind, tenant, dataset, a.reason, coalesce(code, ''), channel, raised, seen, times, notified, acked, acked_by, ack_reason, cleared,
			m.until, coalesce(m.by, ''), coalesce(m.reason, '')
		FROM alarms AS a LEFT JOIN mutes AS m ON m.key = a.key AND m.began <= ?1 AND m.until > ?1
		WHERE `+where+` ORDER BY a.id`, append([]any{ms(d.cfg.Now())}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("list alarms: %w", err)
	}
	defer rows.Close()
	var out []Alarm
	for rows.Next() {
		var a Alarm
		var raised, seen, notified, acked, cleared, until sql.NullInt64
		if err := rows.Scan(&a.ID, &a.Key, &a.Kind, &a.Tenant, &a.Dataset, &a.Reason, &a.Code, &a.Channel, &raised, &seen, &a.Times, &notified,
			&acked, &a.AckedBy, &a.AckReason, &cleared, &until, &a.MutedBy, &a.MuteReason); err != nil {
			return nil, fmt.Errorf("list alarms: %w", err)
		}
		a.Raised, a.Seen, a.Notified, a.Acked, a.Cleared, a.MutedUntil = when(raised), when(seen), when(notified), when(acked), when(cleared), when(until)
		out = append(out, a)
	}
	return out, rows.Err()
}

// LastAnswered is when a person last answered a test alarm; zero: never.
func (d *DB) LastAnswered(ctx context.Context) (time.Time, error) {
	var at sql.NullInt64
	if err := d.r.QueryRowContext(ctx, `SELECT max(acked) FROM alarms WHERE code IS NOT NULL AND cleared = acked`).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("last answer: %w", err)
	}
	return when(at), nil
}
