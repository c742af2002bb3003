package state

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// A Message is one event on its way to one channel.
type Message struct {
	Event   string // unique; with Channel it is queued once
	Channel string
	Body    string
}

// A Queued message has not been sent.
type Queued struct {
	ID int64
	Message
	Created time.Time
	Tries   int
	Error   string // of the last try
}

// keepSent is how long what was sent, or given up, stays to be looked at.
const keepSent = 90 * 24 * time.Hour

// Enqueue queues messages; all or none.
func (d *DB) Enqueue(ctx context.Context, messages ...Message) error {
	err := d.write(ctx, func(tx *sql.Tx) error { return d.enqueue(ctx, tx, messages) })
	if err != nil {
		return fmt.Errorf("queue messages: %w", err)
	}
	return nil
}

func (d *DB) enqueue(ctx context.Context, tx *sql.Tx, messages []Message) error {
	if len(messages) == 0 {
		return nil
	}
	now := d.cfg.Now()
	for _, m := range messages {
		_, err := tx.ExecContext(ctx, `INSERT INTO outbox (event, channel, body, created, next) VALUES (?, ?, ?, ?, ?) ON CONFLICT (event, channel) DO NOTHING`,
			m.Event, m.Channel, m.Body, ms(now), ms(now))
		if err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE coalesce(sent, dropped) < ?`, ms(now.Add(-keepSent)))
	return err
}

// Due returns the messages of a channel whose time has come, oldest first, and
// when the next one's comes; zero when there is none.
func (d *DB) Due(ctx context.Context, channel string, limit int) (due []Queued, next time.Time, err error) {
	now := d.cfg.Now()
	all, err := d.queued(ctx, `channel = ? AND next <= ? ORDER BY id LIMIT ?`, channel, ms(now), limit)
	if err != nil {
		return nil, time.Time{}, err
	}
	var at sql.NullInt64
	if err := d.r.QueryRowContext(ctx, `SELECT min(next) FROM outbox WHERE channel = ? AND next > ? AND sent IS NULL AND dropped IS NULL`, channel, ms(now)).Scan(&at); err != nil {
		return nil, time.Time{}, fmt.Errorf("list messages: %w", err)
	}
	return all, when(at), nil
}

// Waiting returns all that were not sent, oldest first.
func (d *DB) Waiting(ctx context.Context) ([]Queued, error) { return d.queued(ctx, `1 ORDER BY id`) }

func (d *DB) queued(ctx context.Context, where string, args ...any) ([]Queued, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT id, event, channel, body, created, tries, error FROM outbox WHERE sent IS NULL AND dropped IS NULL AND `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	defer rows.Close()
	var out []Queued
	for rows.Next() {
		var q Queued
		var created sql.NullInt64
		if err := rows.Scan(&q.ID, &q.Event, &q.Channel, &q.Body, &created, &q.Tries, &q.Error); err != nil {
			return nil, fmt.Errorf("list messages: %w", err)
		}
		q.Created = when(created)
		out = append(out, q)
	}
	return out, rows.Err()
}

// Sent records that a message was taken. A crash between the two sends it again;
// it has its event's name, by which a receiver can tell.
func (d *DB) Sent(ctx context.Context, id int64) error {
	return d.settle(ctx, id, `UPDATE outbox SET sent = ?, tries = tries + 1, error = ''`, ms(d.cfg.Now()))
}

// Retry puts a message off.
func (d *DB) Retry(ctx context.Context, id int64, at time.Time, why string) error {
	return d.settle(ctx, id, `UPDATE outbox SET next = ?, tries = tries + 1, error = ?`, ms(at), why)
}

// Drop gives a message up.
func (d *DB) Drop(ctx context.Context, id int64, why string) error {
	return d.settle(ctx, id, `UPDATE outbox SET dropped = ?, error = ?`, ms(d.cfg.Now()), why)
}

func (d *DB) settle(ctx context.Context, id int64, update string, args ...any) error {
	res, err := d.w.ExecContext(ctx, update+` WHERE id = ? AND sent IS NULL AND dropped IS NULL`, append(args, id)...)
	if err != nil {
		return fmt.Errorf("message %d: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("message %d: %w", id, ErrNotFound)
	}
	return nil
}
