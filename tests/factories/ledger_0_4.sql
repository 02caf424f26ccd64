-- The ledger of release 0.4.0 (revision 0005), as SQLite lists it; read by tests/factories/release_0_4.py.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE studies (
    "StudyInstanceUID" VARCHAR NOT NULL,
    first_received_at DOUBLE NOT NULL,
    last_received_at DOUBLE NOT NULL,
    CONSTRAINT pk_studies PRIMARY KEY ("StudyInstanceUID")
);
CREATE TABLE instances (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "SOPInstanceUID" VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    arrival INTEGER NOT NULL,
    "SOPClassUID" VARCHAR NOT NULL,
    "TransferSyntaxUID" VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL,
    calling_ae VARCHAR NOT NULL,
    peer_host VARCHAR NOT NULL,
    received_at DOUBLE NOT NULL,
    reading VARCHAR NOT NULL,
    "StudyInstanceUID" VARCHAR,
    "SeriesInstanceUID" VARCHAR,
    header TEXT,
    unreadable_because TEXT,
    indexed_at DOUBLE,
    CONSTRAINT "fk_instances_StudyInstanceUID" FOREIGN KEY("StudyInstanceUID") REFERENCES studies ("StudyInstanceUID"),
    CONSTRAINT "uq_instances_SOPInstanceUID_arrival" UNIQUE ("SOPInstanceUID", arrival),
    CONSTRAINT "uq_instances_SOPInstanceUID_sha256" UNIQUE ("SOPInstanceUID", sha256)
);
CREATE INDEX "ix_instances_StudyInstanceUID" ON instances ("StudyInstanceUID");
CREATE INDEX ix_instances_unread ON instances (id) WHERE reading = 'new';
CREATE TABLE jobs (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "StudyInstanceUID" VARCHAR NOT NULL,
    revision INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    outcome VARCHAR,
    detail TEXT NOT NULL,
    owner VARCHAR,
    lease_until DOUBLE,
    not_before DOUBLE NOT NULL,
    created_at DOUBLE NOT NULL,
    updated_at DOUBLE NOT NULL,
    CONSTRAINT "fk_jobs_StudyInstanceUID" FOREIGN KEY("StudyInstanceUID") REFERENCES studies ("StudyInstanceUID"),
    CONSTRAINT "uq_jobs_StudyInstanceUID_revision" UNIQUE ("StudyInstanceUID", revision)
);
CREATE INDEX ix_jobs_state_not_before ON jobs (state, not_before);
CREATE TABLE results (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    "SOPInstanceUID" VARCHAR NOT NULL,
    "SOPClassUID" VARCHAR NOT NULL,
    "SeriesInstanceUID" VARCHAR NOT NULL,
    created_at DOUBLE NOT NULL,
    CONSTRAINT fk_results_job_id FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE INDEX "ix_results_SOPInstanceUID" ON results ("SOPInstanceUID");
CREATE INDEX ix_results_job_id ON results (job_id);
CREATE TABLE deliveries (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL,
    result_id INTEGER NOT NULL,
    "StudyInstanceUID" VARCHAR NOT NULL,
    destination VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt_at DOUBLE NOT NULL,
    first_failed_at DOUBLE,
    last_status TEXT NOT NULL,
    owner VARCHAR,
    lease_until DOUBLE,
    updated_at DOUBLE NOT NULL, sent_at DOUBLE, confirm_at DOUBLE, confirm_tries INTEGER DEFAULT '0' NOT NULL, resends INTEGER DEFAULT '0' NOT NULL, "TransactionUID" VARCHAR,
    CONSTRAINT fk_deliveries_job_id FOREIGN KEY(job_id) REFERENCES jobs (id),
    CONSTRAINT fk_deliveries_result_id FOREIGN KEY(result_id) REFERENCES results (id),
    CONSTRAINT uq_deliveries_result_id_destination UNIQUE (result_id, destination)
);
CREATE INDEX ix_deliveries_job_id ON deliveries (job_id);
CREATE INDEX ix_deliveries_state_destination_next_attempt_at ON deliveries (state, destination, next_attempt_at);
CREATE TABLE events (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "StudyInstanceUID" VARCHAR NOT NULL,
    at DOUBLE NOT NULL,
    what VARCHAR NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX "ix_events_StudyInstanceUID" ON events ("StudyInstanceUID");
CREATE INDEX "ix_deliveries_TransactionUID" ON deliveries ("TransactionUID");
CREATE TABLE transactions (
    "TransactionUID" VARCHAR NOT NULL,
    destination VARCHAR NOT NULL,
    asked_at DOUBLE NOT NULL,
    reported_at DOUBLE,
    report TEXT,
    CONSTRAINT pk_transactions PRIMARY KEY ("TransactionUID")
);
CREATE TABLE commitment_requests (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    calling_ae VARCHAR NOT NULL,
    peer_host VARCHAR NOT NULL,
    "TransactionUID" VARCHAR NOT NULL,
    asked_for TEXT NOT NULL,
    asked_at DOUBLE NOT NULL,
    due_at DOUBLE,
    attempts INTEGER NOT NULL,
    last_status TEXT NOT NULL,
    CONSTRAINT "uq_commitment_requests_calling_ae_TransactionUID" UNIQUE (calling_ae, "TransactionUID")
);
CREATE INDEX ix_commitment_requests_due_at ON commitment_requests (due_at);
CREATE TABLE fetches (
    "StudyInstanceUID" VARCHAR NOT NULL,
    what VARCHAR NOT NULL,
    due_at DOUBLE,
    attempts INTEGER NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT pk_fetches PRIMARY KEY ("StudyInstanceUID", what)
);
CREATE TABLE archive_counts (
    "SeriesInstanceUID" VARCHAR NOT NULL,
    "StudyInstanceUID" VARCHAR NOT NULL,
    instances INTEGER NOT NULL,
    since DOUBLE NOT NULL,
    asked_at DOUBLE NOT NULL,
    CONSTRAINT pk_archive_counts PRIMARY KEY ("SeriesInstanceUID")
);
CREATE INDEX "ix_archive_counts_StudyInstanceUID" ON archive_counts ("StudyInstanceUID");
CREATE TABLE offers (
    destination VARCHAR NOT NULL,
    address VARCHAR NOT NULL,
    accepted TEXT NOT NULL,
    learned_at DOUBLE,
    ask_at DOUBLE NOT NULL, refused TEXT DEFAULT '{}' NOT NULL,
    CONSTRAINT pk_offers PRIMARY KEY (destination)
);
INSERT INTO alembic_version VALUES ('0005');
