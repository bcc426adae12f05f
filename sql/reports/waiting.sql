-- How long the jobs waited that started within a span of time: by queue and size of the job.
--
-- In seconds, from submission to start; 0 where OAR has the start before the submission. The size
-- of a job is how many resources it holds: 0 are the inner jobs of containers. It is empty for jobs
-- that an earlier version purged, of which it is not known any more. Jobs that still run count, for
-- they have waited; jobs that never ran do not, nor do advance reservations.
-- The median is the shortest time such that half of the jobs waited no longer (waited_90: nine in
-- ten). The mean is rounded down.
--
-- To edit: the lines below "asked_for". The jobs are those that started from start_time on and
-- before stop_time, epoch seconds UTC (here 2026-01-01 and 2026-04-01).

WITH asked_for AS (
    SELECT
        'oar' AS site,
        1767225600 AS start_time,
        1775001600 AS stop_time
),
-- The classes of size.
classes AS (
    SELECT '' AS size, -1 AS at_least, -1 AS at_most
    UNION ALL SELECT '0', 0, 0
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
    SELECT s.site_id
    FROM asked_for q
    JOIN accounting_sites s ON s.name = q.site
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
-- The purged jobs of which anything is kept.
kept AS (
    SELECT DISTINCT p.job_id
    FROM chosen c
    JOIN accounting_purged p ON p.site_id = c.site_id
),
-- The jobs of which it is recorded that they held something.
holders AS (
    SELECT r.job_id
    FROM chosen c
    JOIN accounting_rates r ON r.site_id = c.site_id
    UNION
    SELECT p.job_id
    FROM chosen c
    JOIN accounting_purged p ON p.site_id = c.site_id
    WHERE p.rate <> 0 OR p.asked <> 0 OR p.used <> 0
),
waits AS (
    SELECT
        j.job_id,
        a.queue_name,
        k.size,
        k.at_least,
        CASE
            WHEN j.start_time > j.submission_time THEN j.start_time - j.submission_time
            ELSE 0
        END AS waited
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id
    JOIN accounting_accounts a ON a.account_id = j.account_id
    LEFT JOIN resources h ON h.job_id = j.job_id
    LEFT JOIN kept p ON p.job_id = j.job_id
    LEFT JOIN holders d ON d.job_id = j.job_id
    JOIN classes k
        ON CASE WHEN j.closed = 2 AND p.job_id IS NULL THEN -1 ELSE COALESCE(h.resources, 0) END
            BETWEEN k.at_least AND k.at_most
    WHERE j.job_id <> 0 AND j.start_time > 1
        AND j.start_time >= q.start_time AND j.start_time < q.stop_time
        -- A reservation was promised its start; NULL is of jobs that an earlier version recorded.
        AND COALESCE(j.reservation, 'None') IN ('None', 'none')
        -- OAR gives a start also to jobs that have not started.
        AND (
            (
                j.closed <> 0 AND j.stop_time > j.start_time
                -- What failed and held nothing never ran. An inner job did, where its container is
                -- billed; and nobody knows what an earlier version purged.
                AND (
                    j.state = 'Terminated'
                    OR j.types LIKE 'inner=%'
                    OR j.types LIKE '%,inner=%'
                    OR d.job_id IS NOT NULL
                    OR (j.closed = 2 AND p.job_id IS NULL)
                )
            )
            OR (
                j.closed = 0
                AND j.state IN ('Launching', 'Running', 'Suspended', 'Resuming', 'Finishing')
            )
        )
),
-- Each wait with its place among those of its queue and size, and how many these are.
placed AS (
    SELECT
        w.queue_name,
        w.size,
        w.at_least,
        w.waited,
        ROW_NUMBER() OVER (
            PARTITION BY w.queue_name, w.at_least ORDER BY w.waited, w.job_id
        ) AS place,
        COUNT(*) OVER (PARTITION BY w.queue_name, w.at_least) AS jobs
    FROM waits w
)
SELECT
    p.queue_name,
    p.size,
    COUNT(*) AS jobs,
    MIN(CASE WHEN p.place * 2 >= p.jobs THEN p.waited END) AS waited_median,
    MIN(CASE WHEN p.place * 10 >= p.jobs * 9 THEN p.waited END) AS waited_90,
    CAST((SUM(p.waited) - SUM(p.waited) % COUNT(*)) / COUNT(*) AS DECIMAL(30, 0)) AS waited_mean,
    MAX(p.waited) AS waited_longest
FROM placed p
GROUP BY p.queue_name, p.size, p.at_least
ORDER BY p.queue_name, p.at_least;
