-- In which states OAR's resources were within a span of time, beside what jobs used of them.
--
-- In resource·s: rows "oar" are the seconds of all resources of type default in each state, as
-- OAR's table resource_logs has them; the row "ledger" is what jobs that have ended used of the
-- metric resource.
--
-- Whoever runs it must be able to read two of OAR's tables, resource_logs and resources, in the
-- same database. It looks no further than these: logs that overlap count twice, a state that lasts
-- counts to the end of the span (ask for no time to come), resources that OAR has removed are gone
-- from "oar" but not from "ledger", and a sleeping node is Absent, as a broken one may be. Purged
-- jobs count whole in the window in which they were recorded. Opening amounts and adjustments are
-- not in it. Accounting.utilisation, in Python, looks at all of that.
--
-- To edit: the lines below "asked_for". Times are epoch seconds UTC, from start_time on and before
-- stop_time (here 2026-01-01 and 2026-04-01).

WITH asked_for AS (
    SELECT
        'oar' AS site,
        1767225600 AS start_time,
        1775001600 AS stop_time
),
chosen AS (
    SELECT s.site_id, m.metric_id, q.start_time, q.stop_time
    FROM asked_for q
    JOIN accounting_sites s ON s.name = q.site
    JOIN accounting_metrics m ON m.site_id = s.site_id
    WHERE m.name = 'resource' AND m.state = 'active'
),
-- The stop of a state that lasts is 0, or NULL.
logged AS (
    SELECT
        l.value AS state,
        CASE WHEN l.date_start > q.start_time THEN l.date_start ELSE q.start_time END AS begins,
        CASE WHEN l.date_stop < q.stop_time AND l.date_stop <> 0 THEN l.date_stop
            ELSE q.stop_time END AS ends
    FROM asked_for q
    JOIN resource_logs l ON l.attribute = 'state' AND l.date_start < q.stop_time
    JOIN resources r ON r.resource_id = l.resource_id
    WHERE r.type = 'default'
),
-- Where rates change: few do, and the rest need not be sorted.
changes AS (
    SELECT
        r.job_id,
        r.account_id,
        r.start_time AS begins,
        COALESCE(
            LAG(r.start_time) OVER (PARTITION BY r.job_id, r.account_id ORDER BY r.start_time),
            -9223372036854775807
        ) AS previous
    FROM chosen c
    JOIN accounting_rates r ON r.site_id = c.site_id AND r.metric_id = c.metric_id
    WHERE r.start_time > -9223372036854775807
),
-- What jobs hold each second, and from when until when: a rate holds until the next one begins.
held AS (
    SELECT
        r.site_id,
        r.job_id,
        r.account_id,
        r.asked,
        r.used,
        r.start_time AS begins,
        COALESCE(n.begins, 9223372036854775807) AS ends
    FROM chosen c
    JOIN accounting_rates r ON r.site_id = c.site_id AND r.metric_id = c.metric_id
    LEFT JOIN changes n
        ON n.job_id = r.job_id AND n.account_id = r.account_id AND n.previous = r.start_time
),
-- What jobs that have ended used, and when.
spent AS (
    SELECT
        h.used,
        p.start_time AS span_begins,
        p.stop_time AS span_ends,
        CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END AS begins,
        CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END AS ends
    FROM chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 1
    JOIN accounting_spans p ON p.site_id = j.site_id AND p.job_id = j.job_id AND p.asked = 0
    JOIN held h
        ON h.site_id = j.site_id AND h.job_id = j.job_id
            AND h.begins < p.stop_time AND h.ends > p.start_time
),
used AS (
    SELECT
        CASE WHEN s.ends < c.stop_time THEN s.ends ELSE c.stop_time END
            - CASE WHEN s.begins > c.start_time THEN s.begins ELSE c.start_time END AS seconds,
        s.used
    FROM chosen c
    -- Spans are told apart by time before their rates are looked at.
    JOIN spent s
        ON s.begins < c.stop_time AND s.ends > c.start_time
            AND s.span_begins < c.stop_time AND s.span_ends > c.start_time
    UNION ALL
    SELECT 1, e.used
    FROM chosen c
    JOIN accounting_entries e ON e.site_id = c.site_id AND e.metric_id = c.metric_id
    WHERE e.job_id = 0 AND e.window_start >= c.start_time AND e.window_start < c.stop_time
)
SELECT 'oar' AS source, l.state AS state, SUM(l.ends - l.begins) AS resource_seconds
FROM logged l
WHERE l.ends > l.begins
GROUP BY l.state
UNION ALL
SELECT 'ledger', 'used', COALESCE(SUM(u.seconds * u.used), 0)
FROM used u
ORDER BY source DESC, state;
