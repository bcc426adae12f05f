-- How much of what they asked for the jobs used that ended within a span of time: by user.
--
-- What jobs asked for and used counts as a whole, where they have ended within the span. "jobs" are
-- those that used something of the metric. Purged jobs count as any others, but not those that
-- an earlier version purged: of them the totals alone are left. What was only measured is left out.
-- "unused" is asked less used, "percent_used" is used of asked. OAR may kill late: then used
-- exceeds asked.
-- Amounts are whole numbers of the metric's unit divided by its scale (resource: resource·s).
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
-- What each job asked for and used, over all its accounts.
spent AS (
    SELECT
        j.job_id,
        j.account_id,
        SUM(CASE WHEN p.asked = 1 THEN h.asked ELSE 0 END * (
            CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END
            - CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END
        )) AS asked,
        SUM(CASE WHEN p.asked = 0 THEN h.used ELSE 0 END * (
            CASE WHEN p.stop_time < h.ends THEN p.stop_time ELSE h.ends END
            - CASE WHEN p.start_time > h.begins THEN p.start_time ELSE h.begins END
        )) AS used
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 1
        AND j.stop_time >= q.start_time AND j.stop_time < q.stop_time
    JOIN accounting_spans p ON p.site_id = j.site_id AND p.job_id = j.job_id
    JOIN held h
        ON h.site_id = j.site_id AND h.job_id = j.job_id
            AND h.begins < p.stop_time AND h.ends > p.start_time
    GROUP BY j.job_id, j.account_id
    UNION ALL
    -- Purged jobs: what is kept of them, day by day.
    SELECT j.job_id, j.account_id, SUM(p.asked), SUM(p.used)
    FROM asked_for q
    CROSS JOIN chosen c
    JOIN accounting_jobs j ON j.site_id = c.site_id AND j.closed = 2
        AND j.stop_time >= q.start_time AND j.stop_time < q.stop_time
    JOIN accounting_purged p
        ON p.site_id = j.site_id AND p.job_id = j.job_id AND p.metric_id = c.metric_id
    GROUP BY j.job_id, j.account_id
),
users AS (
    SELECT
        a.user_name,
        SUM(CASE WHEN s.used > 0 THEN 1 ELSE 0 END) AS jobs,
        SUM(s.asked) AS asked,
        SUM(s.used) AS used
    FROM spent s
    JOIN accounting_accounts a ON a.account_id = s.account_id
    WHERE s.asked > 0 OR s.used > 0
    GROUP BY a.user_name
)
SELECT
    u.user_name,
    u.jobs,
    u.asked,
    u.used,
    u.asked - u.used AS unused,
    CASE WHEN u.asked > 0 THEN ROUND(100.0 * u.used / u.asked, 2) END AS percent_used
FROM users u
ORDER BY u.user_name;
