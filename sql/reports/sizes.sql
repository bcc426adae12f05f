-- How many jobs of which size used something of a metric within a span of time, and how much.
--
-- The size of a job is how many resources it holds. Jobs that have not ended do not count. Opening
-- amounts, adjustments, and jobs that an earlier version purged are in no size.
-- Amounts are whole numbers of the metric's unit divided by its scale (resource: resource·s), exact
-- to the second. Of purged jobs they are kept by day: where a bound cuts one, they lie evenly over
-- what of the day the job ran.
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
-- The classes of size.
classes AS (
    SELECT '0' AS size, 0 AS at_least, 0 AS at_most
    UNION ALL SELECT '1', 1, 1
    UNION ALL SELECT '2-4', 2, 4
    UNION ALL SELECT '5-8', 5, 8
    UNION ALL SELECT '9-64', 9, 64
    UNION ALL SELECT '65-256', 65, 256
    UNION ALL SELECT '257-512', 257, 512
    UNION ALL SELECT '513-1024', 513, 1024
    UNION ALL SELECT '1025+', 1025, 9223372036854775807
),
chosen AS (
    SELECT s.site_id, s.window_seconds, m.metric_id, m.name AS metric
    FROM asked_for q
    JOIN accounting_sites s ON s.name = q.site
    JOIN accounting_metrics m ON m.site_id = s.site_id AND m.name = q.metric
    WHERE m.state = 'active'
),
-- How many resources each job holds, over all its accounts; where that changed, at its beginning.
resources AS (
    SELECT r.job_id, SUM(r.asked) AS resources
    FROM chosen c
    JOIN accounting_metrics m
        ON m.site_id = c.site_id AND m.name = 'resource' AND m.state = 'active'
    JOIN accounting_rates r
        ON r.site_id = c.site_id AND r.metric_id = m.metric_id
            AND r.start_time = -9223372036854775807
    GROUP BY r.job_id
    UNION ALL
    SELECT p.job_id, SUM(p.rate)
    FROM chosen c
    JOIN accounting_metrics m
        ON m.site_id = c.site_id AND m.name = 'resource' AND m.state = 'active'
    JOIN accounting_purged p ON p.site_id = c.site_id AND p.metric_id = m.metric_id
    GROUP BY p.job_id
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
-- What is kept of purged jobs, day by day. How long a day is stands with what is of no job.
purged_days AS (
    SELECT
        p.job_id,
        p.used,
        j.start_time,
        j.stop_time,
        p.day_start - p.day_start % d.submission_time AS day_begins,
        p.day_start - p.day_start % d.submission_time + d.submission_time AS day_ends
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs d ON d.site_id = c.site_id AND d.job_id = 0 AND d.submission_time > 0
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 2
        AND j.start_time < q.stop_time + d.submission_time
        AND j.stop_time > q.start_time - d.submission_time
    JOIN accounting_purged p
        ON p.site_id = j.site_id AND p.job_id = j.job_id AND p.metric_id = c.metric_id
    WHERE p.used > 0
),
-- What was measured may be of the day before a job began, or of the one after it ended.
purged_times AS (
    SELECT
        d.job_id,
        d.used,
        CASE
            WHEN d.start_time >= d.day_ends OR d.stop_time <= d.day_begins THEN d.day_begins
            WHEN d.start_time >= d.stop_time THEN d.day_begins
            WHEN d.start_time > d.day_begins THEN d.start_time
            ELSE d.day_begins
        END AS begins,
        CASE
            WHEN d.start_time >= d.day_ends OR d.stop_time <= d.day_begins THEN d.day_ends
            WHEN d.start_time >= d.stop_time THEN d.day_ends
            WHEN d.stop_time < d.day_ends THEN d.stop_time
            ELSE d.day_ends
        END AS ends
    FROM purged_days d
),
-- Its share of the span is what lies before the end less what lies before the beginning.
purged_shares AS (
    SELECT
        t.job_id, t.used, t.ends - t.begins AS whole, 1 AS counts,
        CASE WHEN t.ends < q.stop_time THEN t.ends ELSE q.stop_time END - t.begins AS seconds
    FROM asked_for q
    JOIN purged_times t ON t.begins < q.stop_time AND t.ends > q.start_time
    UNION ALL
    SELECT t.job_id, t.used, t.ends - t.begins, -1, q.start_time - t.begins
    FROM asked_for q
    JOIN purged_times t ON t.begins < q.start_time AND t.ends > q.start_time
),
-- used * seconds / whole, cut towards zero; in two steps, so that no product passes 63 bits.
-- "/" only ever divides what leaves no remainder: it is not the same in every database.
purged_used AS (
    SELECT
        s.job_id,
        CAST(s.counts * ((s.used - s.used % s.whole) / s.whole * s.seconds
            + ((s.used % s.whole) * s.seconds - (s.used % s.whole) * s.seconds % s.whole)
            / s.whole) AS DECIMAL(30, 0)) AS used
    FROM purged_shares s
),
-- What each job used within the span.
jobs_used AS (
    SELECT
        j.job_id,
        SUM(h.used * (
            CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END
            - CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END
        )) AS used
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 1
    JOIN (
        SELECT
            o.site_id,
            o.job_id,
            CASE WHEN o.start_time > q.start_time THEN o.start_time ELSE q.start_time END
                AS start_time,
            CASE WHEN o.stop_time < q.stop_time THEN o.stop_time ELSE q.stop_time END AS stop_time
        FROM asked_for q
        JOIN accounting_spans o
            ON o.asked = 0 AND o.start_time < q.stop_time AND o.stop_time > q.start_time
    ) p ON p.site_id = j.site_id AND p.job_id = j.job_id
    JOIN held h
        ON h.site_id = j.site_id AND h.job_id = j.job_id
            AND h.begins < p.stop_time AND h.ends > p.start_time
    GROUP BY j.job_id
    UNION ALL
    SELECT s.job_id, SUM(s.used)
    FROM purged_used s
    GROUP BY s.job_id
)
SELECT k.size, COUNT(*) AS jobs, SUM(u.used) AS used
FROM jobs_used u
LEFT JOIN resources h ON h.job_id = u.job_id
JOIN classes k ON COALESCE(h.resources, 0) BETWEEN k.at_least AND k.at_most
WHERE u.used > 0
GROUP BY k.size, k.at_least
ORDER BY k.at_least;
