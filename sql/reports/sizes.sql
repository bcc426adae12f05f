-- How many jobs of which size used something of a metric within a span of time, and how much.
--
-- The size of a job is how many resources it holds. Jobs that have not ended do not count, purged
-- jobs are not known any more. Opening amounts and adjustments are in no size.
-- Amounts are whole numbers of the metric's unit divided by its scale (resource: resource·s),
-- exact to the second.
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
)
SELECT k.size, COUNT(*) AS jobs, SUM(u.used) AS used
FROM jobs_used u
LEFT JOIN resources h ON h.job_id = u.job_id
JOIN classes k ON COALESCE(h.resources, 0) BETWEEN k.at_least AND k.at_most
WHERE u.used > 0
GROUP BY k.size, k.at_least
ORDER BY k.at_least;
