-- The roles of oar-accounting, each with no more than it needs:
--
--   oar_accounting_owner    creates our tables: init, and the upgrades to come
--   oar_accounting_writer   reads OAR and writes our tables: catch-up, record, rebuild ...
--   oar_accounting_reader   reads our tables: usage, verify ...
--   oar_accounting_karma    reads both, for what OAR's scheduler asks, and writes what users of
--                           OAR 3 see: show-karma
--
-- None of them may change OAR's tables, but for the last: it may set the columns last_karma and
-- message of jobs. OAR's own reader, oar_ro, becomes a reader too.
--
-- Run it as a superuser in the database of our tables, before "oar-accounting init", and in OAR's
-- database where that is another one. It may be run again at any time, and must be where the
-- tables were made by a role other than oar_accounting_owner:
--
--   psql -X -v ON_ERROR_STOP=1 -f roles.sql oar
--
-- Nobody can log in as these roles. Grant them to roles that can, under names of your own, such as
--
--   CREATE ROLE accounting_init LOGIN PASSWORD '...' IN ROLE oar_accounting_owner;
--   ALTER ROLE accounting_init SET role = 'oar_accounting_owner';   -- so that it owns what is made
--   CREATE ROLE accounting_catch_up LOGIN PASSWORD '...' IN ROLE oar_accounting_writer;
--   CREATE ROLE accounting_usage LOGIN PASSWORD '...' IN ROLE oar_accounting_reader;
--
-- Before PostgreSQL 15, everybody may create tables of their own in the schema public, these roles
-- too, unless you: REVOKE CREATE ON SCHEMA public FROM PUBLIC;

BEGIN;
SET LOCAL client_min_messages = warning;

-- -- the roles --------------------------------------------------------------------------------

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['owner', 'writer', 'reader', 'karma'] LOOP
        name := 'oar_accounting_' || name;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'oar_ro') THEN
        GRANT oar_accounting_reader TO oar_ro;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public
    TO oar_accounting_owner, oar_accounting_writer, oar_accounting_reader, oar_accounting_karma;
GRANT oar_accounting_reader TO oar_accounting_karma;

-- -- our tables: those that the owner will make, and those that are there ---------------------

GRANT CREATE ON SCHEMA public TO oar_accounting_owner;

DO $$
DECLARE
    written text := 'SELECT, INSERT, UPDATE, DELETE';
    ours record;
BEGIN
    -- So that the writer may ANALYZE what it has filled; before 17, only the owner may.
    IF current_setting('server_version_num')::integer >= 170000 THEN
        written := written || ', MAINTAIN';
    END IF;
    EXECUTE 'ALTER DEFAULT PRIVILEGES FOR ROLE oar_accounting_owner IN SCHEMA public '
        'GRANT ' || written || ' ON TABLES TO oar_accounting_writer';
    ALTER DEFAULT PRIVILEGES FOR ROLE oar_accounting_owner IN SCHEMA public
        GRANT USAGE ON SEQUENCES TO oar_accounting_writer;
    ALTER DEFAULT PRIVILEGES FOR ROLE oar_accounting_owner IN SCHEMA public
        GRANT SELECT ON TABLES TO oar_accounting_reader;
    -- OAR's own table is called accounting, without an underscore.
    FOR ours IN
        SELECT relname AS name, relkind = 'S' AS is_sequence
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
            AND relname LIKE 'accounting\_%' AND relkind IN ('r', 'S')
    LOOP
        IF ours.is_sequence THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE public.%I TO oar_accounting_writer', ours.name);
        ELSE
            EXECUTE format('GRANT %s ON public.%I TO oar_accounting_writer', written, ours.name);
            EXECUTE format('GRANT SELECT ON public.%I TO oar_accounting_reader', ours.name);
        END IF;
    END LOOP;
END
$$;

-- -- OAR's tables, where they are -------------------------------------------------------------

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'accounting', 'assigned_resources', 'event_logs', 'job_resource_descriptions',
        'job_resource_groups', 'job_state_logs', 'job_types', 'jobs', 'moldable_job_descriptions',
        'queues', 'resource_logs', 'resources'
    ] LOOP
        IF to_regclass('public.' || name) IS NOT NULL THEN
            EXECUTE format(
                'GRANT SELECT ON public.%I TO oar_accounting_writer, oar_accounting_karma', name
            );
        END IF;
    END LOOP;
    -- OAR 2 has no such column, and shows what its scheduler was given.
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('public.jobs') AND attname = 'last_karma'
    ) THEN
        GRANT UPDATE (last_karma, message) ON public.jobs TO oar_accounting_karma;
    END IF;
END
$$;

COMMIT;
