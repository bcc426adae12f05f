-- The jobs of one user, or of all, that ran within a span of time, each as a whole: what they
-- asked for, used, and asked for but did not use.
--
-- A job is here that has ended and ran within the span, in part at least; purged jobs, too, but not
-- those that an earlier version purged, of which no amounts are left.
-- Times are epoch seconds UTC. "waited" is from submission to start, in seconds, as is "walltime".
-- It is 0 where OAR has the start before the submission.
-- Amounts are whole numbers of the metric's unit divided by its scale (resource: resource·s), of
-- all the job, also what lies before and after the span. "unused" is asked less used; OAR may kill
-- late, then it is below zero.
-- "exit_code" is as OAR has it: 256 times what the program returned, or the number of the signal
-- that ended it. Name, exit code, nodes and reservation are NULL where they are not recorded.
--
-- To edit: the lines below "asked_for". The jobs are those that ran from start_time on and before
-- stop_time (here 2026-01-01 and 2026-04-01). user_name '' stands for all users.
-- A quote in a name is written twice.

WITH asked_for AS (
    SELECT
        'oar' AS site,
        'resource' AS metric,
        '' AS user_name,
        1767225600 AS start_time,
        1775001600 AS stop_time
),
chosen AS (
    SELECT s.site_id, s.window_seconds, m.metric_id, m.name AS metric
    FROM asked_for q
    JOIN accounting_sites s ON s.name = q.site
    JOIN accounting_metrics m ON m.site_id = s.site_id AND m.name = q.metric
    WHERE m.state = 'active'
),
-- The jobs that ran within the span.
ran AS (
    SELECT j.site_id, j.job_id
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed <> 0
    WHERE j.start_time > 1 AND j.stop_time > j.start_time
        AND j.start_time < q.stop_time AND j.stop_time > q.start_time
        AND (
            j.closed = 1
            OR EXISTS (
                SELECT 1 FROM accounting_purged p
                WHERE p.site_id = j.site_id AND p.job_id = j.job_id
            )
        )
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
-- What they asked for and used, over all their accounts.
spent AS (
    SELECT
        h.job_id,
        SUM(CASE WHEN p.asked = 1 THEN h.asked ELSE 0 END * (
            CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END
            - CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END
        )) AS asked,
        SUM(CASE WHEN p.asked = 0 THEN h.used ELSE 0 END * (
            CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END
            - CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END
        )) AS used
    FROM ran x
    JOIN accounting_spans p ON p.site_id = x.site_id AND p.job_id = x.job_id
    JOIN held h
        ON h.site_id = x.site_id AND h.job_id = x.job_id
            AND h.begins < p.stop_time AND h.ends > p.start_time
    GROUP BY h.job_id
    UNION ALL
    -- Purged jobs: what is kept of them, day by day.
    SELECT p.job_id, SUM(p.asked), SUM(p.used)
    FROM ran x
    CROSS JOIN chosen c
    JOIN accounting_purged p
        ON p.site_id = x.site_id AND p.job_id = x.job_id AND p.metric_id = c.metric_id
    GROUP BY p.job_id
)
SELECT
    j.job_id,
    a.user_name,
    a.project,
    a.queue_name,
    j.state,
    j.types,
    j.name,
    j.exit_code,
    j.nodes,
    j.reservation,
    j.submission_time AS submitted,
    j.start_time AS started,
    j.stop_time AS ended,
    CASE
        WHEN j.start_time > j.submission_time THEN j.start_time - j.submission_time
        ELSE 0
    END AS waited,
    j.walltime,
    COALESCE(s.asked, 0) AS asked,
    COALESCE(s.used, 0) AS used,
    COALESCE(s.asked - s.used, 0) AS unused
FROM asked_for q
CROSS JOIN ran x
JOIN accounting_jobs j ON j.site_id = x.site_id AND j.job_id = x.job_id
JOIN accounting_accounts a ON a.account_id = j.account_id
-- A job may hold nothing, of this metric or at all.
LEFT JOIN spent s ON s.job_id = j.job_id
WHERE q.user_name = '' OR a.user_name = q.user_name
ORDER BY j.job_id;
