-- Who asked for and used how much of a metric within a span of time: by user, project and queue.
--
-- Amounts are whole numbers of the metric's unit divided by its scale (resource: resource·s),
-- exact to the second.
-- Within them, and told apart in columns of their own, are opening amounts (what OAR's own
-- accounting had of the years before, metric resource only) and adjustments. Jobs that have not
-- ended do not count. Purged jobs count whole in the window (a day, where nothing else is set) in
-- which they were recorded.
--
-- To edit: the lines below "asked_for". Times are epoch seconds UTC, from start_time on and before
-- stop_time (here 2026-01-01 and 2026-04-01).

WITH asked_for AS (
    SELECT
        'oar' AS site,
        'resource' AS metric,
        1767225600 AS start_time,
        1775001600 AS stop_time
),
times AS (
    SELECT q.start_time AS begins, q.stop_time AS ends
    FROM asked_for q
),
-- -- from here to the line below "amounts", usage, series, top and project are the same ---------
chosen AS (
    SELECT s.site_id, s.window_seconds, m.metric_id, m.name AS metric
    FROM asked_for q
    JOIN accounting_sites s ON s.name = q.site
    JOIN accounting_metrics m ON m.site_id = s.site_id AND m.name = q.metric
    WHERE m.state = 'active'
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
-- What jobs that have ended asked for (is_asked = 1) and used, and when.
spent AS (
    SELECT
        h.account_id,
        p.asked AS is_asked,
        h.asked,
        h.used,
        p.start_time AS span_begins,
        p.stop_time AS span_ends,
        CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END AS begins,
        CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END AS ends
    FROM chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 1
    JOIN accounting_spans p ON p.site_id = j.site_id AND p.job_id = j.job_id
    JOIN held h
        ON h.site_id = j.site_id AND h.job_id = j.job_id
            AND h.begins < p.stop_time AND h.ends > p.start_time
),
pieces AS (
    SELECT
        t.begins,
        s.account_id,
        s.is_asked,
        s.asked,
        s.used,
        CASE WHEN s.ends < t.ends THEN s.ends ELSE t.ends END
            - CASE WHEN s.begins > t.begins THEN s.begins ELSE t.begins END AS seconds
    FROM spent s
    -- Spans are told apart by time before their rates are looked at.
    JOIN times t
        ON t.begins < s.ends AND t.ends > s.begins
            AND t.begins < s.span_ends AND t.ends > s.span_begins
),
-- What lies evenly over a span: what is open of OAR's own accounting, adjustments, what was
-- measured of jobs.
laid AS (
    SELECT
        o.account_id,
        'opening' AS part,
        o.window_start AS begins,
        o.window_stop AS ends,
        CASE WHEN o.asked > o.covered_asked THEN o.asked - o.covered_asked ELSE 0 END AS asked,
        CASE WHEN o.used > o.covered_used THEN o.used - o.covered_used ELSE 0 END AS used
    FROM chosen c
    JOIN accounting_openings o ON o.site_id = c.site_id
    WHERE c.metric = 'resource'
    UNION ALL
    SELECT l.account_id, 'adjusted', l.start_time, l.stop_time, l.asked, l.used
    FROM chosen c
    JOIN accounting_adjustments h ON h.site_id = c.site_id
    JOIN accounting_adjusted l ON l.adjustment_id = h.adjustment_id AND l.metric = c.metric
    UNION ALL
    SELECT
        e.account_id, 'job', e.window_start, e.window_start + c.window_seconds, e.asked, e.used
    FROM chosen c
    JOIN accounting_entries e ON e.site_id = c.site_id AND e.metric_id = c.metric_id
    JOIN accounting_jobs j ON j.site_id = e.site_id AND j.job_id = e.job_id
    WHERE e.job_id <> 0 AND j.closed = 1
),
-- Its share of a time is what lies before the end less what lies before the beginning.
shares AS (
    SELECT
        t.begins, l.account_id, l.part, l.asked, l.used, l.ends - l.begins AS whole, 1 AS counts,
        CASE WHEN l.ends < t.ends THEN l.ends ELSE t.ends END - l.begins AS seconds
    FROM laid l
    JOIN times t ON t.begins < l.ends AND t.ends > l.begins
    UNION ALL
    SELECT
        t.begins, l.account_id, l.part, l.asked, l.used, l.ends - l.begins, -1,
        t.begins - l.begins
    FROM laid l
    JOIN times t ON t.begins < l.ends AND t.begins > l.begins
),
amounts AS (
    SELECT
        p.begins,
        p.account_id,
        'job' AS part,
        CASE WHEN p.is_asked = 1 THEN p.seconds * p.asked ELSE 0 END AS asked,
        CASE WHEN p.is_asked = 0 THEN p.seconds * p.used ELSE 0 END AS used
    FROM pieces p
    UNION ALL
    -- Purged jobs: whole where their window begins.
    SELECT t.begins, e.account_id, 'job', e.asked, e.used
    FROM chosen c
    JOIN accounting_entries e ON e.site_id = c.site_id AND e.metric_id = c.metric_id
    JOIN times t ON t.begins <= e.window_start AND t.ends > e.window_start
    WHERE e.job_id = 0
    UNION ALL
    -- asked * seconds / whole, cut towards zero; in two steps, so that no product passes 63 bits.
    -- "/" only ever divides what leaves no remainder: it is not the same in every database.
    SELECT
        s.begins,
        s.account_id,
        s.part,
        CAST(s.counts * ((s.asked - s.asked % s.whole) / s.whole * s.seconds
            + ((s.asked % s.whole) * s.seconds - (s.asked % s.whole) * s.seconds % s.whole)
            / s.whole) AS DECIMAL(30, 0)),
        CAST(s.counts * ((s.used - s.used % s.whole) / s.whole * s.seconds
            + ((s.used % s.whole) * s.seconds - (s.used % s.whole) * s.seconds % s.whole)
            / s.whole) AS DECIMAL(30, 0))
    FROM shares s
),
-- ------------------------------------------------------------------------------------------------
owners AS (
    SELECT
        a.user_name,
        a.project,
        a.queue_name,
        SUM(x.asked) AS asked,
        SUM(x.used) AS used,
        SUM(CASE WHEN x.part = 'opening' THEN x.asked ELSE 0 END) AS opening_asked,
        SUM(CASE WHEN x.part = 'opening' THEN x.used ELSE 0 END) AS opening_used,
        SUM(CASE WHEN x.part = 'adjusted' THEN x.asked ELSE 0 END) AS adjusted_asked,
        SUM(CASE WHEN x.part = 'adjusted' THEN x.used ELSE 0 END) AS adjusted_used
    FROM amounts x
    JOIN accounting_accounts a ON a.account_id = x.account_id
    GROUP BY a.user_name, a.project, a.queue_name
)
SELECT
    o.user_name,
    o.project,
    o.queue_name,
    o.asked,
    o.used,
    o.opening_asked,
    o.opening_used,
    o.adjusted_asked,
    o.adjusted_used
FROM owners o
WHERE o.asked <> 0 OR o.used <> 0
    OR o.opening_asked <> 0 OR o.opening_used <> 0
    OR o.adjusted_asked <> 0 OR o.adjusted_used <> 0
ORDER BY o.user_name, o.project, o.queue_name;
