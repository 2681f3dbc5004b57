"""Every bound of the system, with its unit in the name and its reason beside it.

Where a client could notice, the default follows Cloudflare's published limit. Those that an operator may
raise are fields of `Limits`; the others are constants that nobody should need to tune.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.base.errors import Invalid

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: One frame between processes: the largest body plus what wraps it, or the largest answer.
FRAME_BYTES_MAX = 64 * MIB
#: The arguments of one call of an object, or its result, encoded. The same wherever the object lives: what wraps it
#: must fit into a frame, too.
CALL_BYTES_MAX = FRAME_BYTES_MAX - 64 * KIB
#: Smaller: more checkpoints, each with two fsyncs; larger: a longer recovery after a crash (about 0.3 s for 64 MiB
#: on a virtual disk) and more disk.
WAL_BYTES_MAX_DEFAULT = 32 * MIB
#: Upper bound of `body_bytes_max`.
BODY_BYTES_LIMIT = FRAME_BYTES_MAX - 1 * MIB
#: Upper bound of `queue_concurrency_max`, and of what one consumer's settings may ask for.
CONCURRENCY_LIMIT = 1_000
#: Lower bound of `transform_memory_bytes_max`: what the process has mapped before the application does anything.
TRANSFORM_MEMORY_BYTES_MIN = 512 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that an operator may raise (`penstock serve --help`)."""

    #: The body of one ingest request, or of one to an object. Cloudflare Pipelines: 5 MB, decimal.
    body_bytes_max: int = 5_000_000
    #: One control request's body; the largest legal pipeline description is a few KiB.
    control_body_bytes_max: int = 1 * MIB
    #: Bodies of ingest requests being received or held by a gate, per executor. It bounds memory: at
    #: 64 MiB an executor stays under 200 MB with every buffer full.
    inflight_bytes_max: int = 64 * MIB
    #: Accepted bytes that are not in a file yet, per shard. It bounds the disk that a dead sink can fill.
    undelivered_bytes_max: int = 4 * GIB
    #: Likewise of all shards that a pipeline has on an executor, with those of its older generations.
    pipeline_undelivered_bytes_max: int = 8 * GIB
    #: Likewise of all shards of an executor; once it is used up, pipelines over their fair share are refused.
    executor_undelivered_bytes_max: int = 16 * GIB
    #: Ingestion and requests to objects stop (507) when the file system has less than this free, so that sealing,
    #: delivering and freeing, which need a little room themselves, still work.
    disk_reserve_bytes: int = 256 * MIB
    #: An object's log is copied back into its database when it is larger than this.
    wal_bytes_max: int = WAL_BYTES_MAX_DEFAULT
    #: The address space of each process that runs transforms, of which an executor has one; 0 is no limit. Well
    #: above what such a process really uses: libraries reserve addresses that they never touch.
    transform_memory_bytes_max: int = 4 * GIB
    #: Bytes of messages that a queue keeps, in all its storage shards together. Cloudflare Queues: 25 GB, decimal.
    queue_backlog_bytes_max: int = 25_000_000_000
    #: Batches of one consumer handled at once, unless its own settings say less. Cloudflare Queues: 250.
    queue_concurrency_max: int = 250

    def __post_init__(self) -> None:
        """Raises `Invalid` for what cannot hold."""
        if self.body_bytes_max > BODY_BYTES_LIMIT:
            raise Invalid(
                f"body_bytes_max is {self.body_bytes_max}; it may be {BODY_BYTES_LIMIT} at most, because a body "
                "must fit into one message between executors."
            )
        if 0 < self.transform_memory_bytes_max < TRANSFORM_MEMORY_BYTES_MIN:
            raise Invalid(
                f"transform_memory_bytes_max is {self.transform_memory_bytes_max}; it must be 0 (no limit) or "
                f"{TRANSFORM_MEMORY_BYTES_MIN} at least, which the process itself takes."
            )
        if not 1 <= self.queue_concurrency_max <= CONCURRENCY_LIMIT:
            raise Invalid(
                f"queue_concurrency_max is {self.queue_concurrency_max}; it must be from 1 to {CONCURRENCY_LIMIT}."
            )


#: Requests of one pipeline that an executor stores in one turn of its loop while others have some too: at some 40
#: µs each, what others wait for it at most.
REQUESTS_PER_TURN_MAX = 8
#: For so long a pipeline that was seen counts as one of the others.
TURNS_WINDOW_MS = 1_000
#: Objects with nothing to do are closed after this time; Cloudflare evicts after 70 to 140 s.
OBJECT_IDLE_MS_MAX = 70_000
#: Objects in memory per executor: 1 GB, at about 200 KB for a small object. Each has three files open, of which
#: Linux gives a process 1,024 unless it asks for more, as executors do (usually up to 524,288).
OBJECTS_ACTIVE_MAX = 5_000
#: An object's name, in bytes of UTF-8. As long as the longest name of an alarm's object at Cloudflare; names travel
#: with calls and are stored with the object.
OBJECT_NAME_BYTES_MAX = 1_024
#: How often idle objects and free disk space are looked at.
SWEEP_INTERVAL_MS = 10_000
#: How often the free disk space is asked for. A full disk is noticed within this time, at the latest by the
#: failing write itself.
DISK_CHECK_INTERVAL_MS = 500
#: A request's line and headers; most servers allow 8 to 64 KiB. (One read of the socket may be taken on top.)
HEAD_BYTES_MAX = 64 * KIB
#: How long a client may take for them, and for a whole request: it bounds how long a body that trickles in takes a
#: share of `inflight_bytes_max` from others.
HEAD_SECONDS_MAX = 10
REQUEST_SECONDS_MAX = 60
#: Requests on one connection that wait for the answer to the one before.
PIPELINED_REQUESTS_MAX = 1_000
#: What is read of a body that is refused, so that the client gets to see the refusal.
DISCARDED_BYTES_MAX = 64 * MIB

#: A compressed body is inflated in steps that take and give at most so much: each well below a millisecond of the
#: loop (5 MB take 2 to 4 ms in all, less than to parse them: a thread would save nothing).
DEFLATED_SLICE_BYTES = 16 * KIB
INFLATED_SLICE_BYTES = 256 * KIB
#: The window that a zstd decompressor holds in memory: 8 MiB, the most that RFC 9659 lets senders ask for.
ZSTD_WINDOW_BITS_MAX = 23

#: When a client that was refused for a full disk should try again: room is made by people or by deliveries.
DISK_FULL_RETRY_S = 5
#: Calls that wait until an object may be entered, per object: half a second of them at 20,000 calls a second, and
#: some 30 MB besides their arguments.
CALLS_WAITING_MAX = 10_000
#: A key in a bucket, in bytes of UTF-8: Linux takes paths of 4,096 bytes, which begin with the data directory's.
#: And what is between two of its slashes, which is the name of a file or folder (NAME_MAX).
KEY_BYTES_MAX = 3_000
KEY_PART_BYTES_MAX = 255
#: `block_concurrency_while` gives up after this (Cloudflare: 30 s).
BLOCK_CONCURRENCY_MS_MAX = 30_000

#: `wait_until` gives up after this. Cloudflare lets no operation keep an object in memory for longer.
WAIT_UNTIL_MS_MAX = 15 * 60_000
#: Awaitables of one object that `wait_until` looks after at once: a few KB each.
WAIT_UNTIL_MAX = 1_000

#: Alarms: Cloudflare retries 6 times, after 2 s doubling.
ALARM_RETRIES_MAX = 6
ALARM_RETRY_BASE_MS = 2_000
#: The last of six counted retries waits so long. A try that does not count, because something is away, may be the
#: hundredth: what came back is noticed within about a minute.
ALARM_RETRY_MAX_MS = 64_000
#: An alarm's handler that takes longer has failed; as `WAIT_UNTIL_MS_MAX`.
ALARM_MS_MAX = 15 * 60_000
#: Due alarms started at once per executor, of users' classes and as many of Penstock's own; the rest wait their
#: turn.
ALARMS_RUNNING_MAX = 64

#: SQL of user classes: Cloudflare's limits. SQLite holds each of them itself.
#: One query's text, UTF-8; with several statements, all of them together.
SQL_TEXT_BYTES_MAX = 100_000
#: One row, and so one string or blob: 2 MB, and some room for the rest of the row.
SQL_ROW_BYTES_MAX = 2_200_000
#: Columns of a table, an index, a view or a result.
SQL_COLUMNS_MAX = 100
SQL_BINDINGS_MAX = 100
#: Arguments of one call of an SQL function: many, because `json_object` takes two for each field.
SQL_FUNCTION_ARGUMENTS_MAX = 127
#: The pattern of LIKE and GLOB, whose cost may grow with the square of its length.
SQL_PATTERN_BYTES_MAX = 50
SQL_EXPRESSION_DEPTH_MAX = 100
#: Terms of UNION, INTERSECT and EXCEPT.
SQL_COMPOUND_TERMS_MAX = 5
#: Instructions that one statement is compiled to. It bounds what a statement is, not how long it runs.
SQL_INSTRUCTIONS_MAX = 25_000
SQL_TRIGGER_DEPTH_MAX = 10
#: Instructions that a query may run: 10 to 30 s, in which nothing else runs on this executor (Cloudflare: 30 s).
#: SQLite asks whether to go on after so many of them.
SQL_STEPS_MAX = 1_000_000_000
SQL_STEPS_BETWEEN_LOOKS = 100_000

#: `storage.kv`: Cloudflare's limits. Key and value are a row, so together they fit into `SQL_ROW_BYTES_MAX`.
KV_KEY_BYTES_MAX = 2 * KIB
KV_ENTRY_BYTES_MAX = 2 * MIB
#: Keys of one get, put or delete.
KV_BATCH_KEYS_MAX = 128
#: `list` reads this many entries at once: up to 64 MiB of the largest.
KV_PAGE_ENTRIES = 32
#: A class's name becomes the name of a folder and the label of a metric.
CLASS_NAME_LENGTH_MAX = 64
#: Objects whose failures an executor remembers, and how much of each failure's text: 10 MB at the most.
FAILURES_KEPT_MAX = 10_000
FAILURE_TEXT_LENGTH_MAX = 1_000

#: An operator's query on one object: it runs beside the loop, but keeps the object's log from starting again, and a
#: start of the object waits for it.
QUERY_MS_MAX = 2_000
QUERY_ROWS_MAX = 1_000
QUERY_RESULT_BYTES_MAX = 4 * MIB
QUERY_SQL_BYTES_MAX = 100_000

#: A call to an object in another process fails with `Unavailable` after this time. Longer than an object may keep
#: calls out, so that whoever waits for that gets to hear why it failed.
CALL_TIMEOUT_MS = BLOCK_CONCURRENCY_MS_MAX + 5_000
#: An executor that has not given its metrics by then shows as down; scrapers give up after 10 s.
METRICS_TIMEOUT_MS = 2_000
#: Bytes queued towards one sibling process before calls to it are refused.
PEER_QUEUE_BYTES_MAX = 64 * MIB
#: Bytes of a stream between objects that were sent and are not read yet: what one stream costs in memory. A Unix
#: socket's round trip takes about 0.1 ms, so that a window of this size does not slow a writer down (2.5 GB/s).
STREAM_WINDOW_BYTES = 256 * KIB
#: A longer chunk is cut. A quarter of the window, so that a writer need not stop while its reader takes a chunk.
STREAM_CHUNK_BYTES_MAX = 64 * KIB

#: A stream whose reader has taken nothing for so long ends: it keeps its writer in memory; as `WAIT_UNTIL_MS_MAX`.
STREAM_UNREAD_MS_MAX = 15 * 60_000

#: Files of a sink are retried for ever, with this backoff: no number of failures makes data worthless.
SINK_RETRY_BASE_MS = 500
SINK_RETRY_MAX_MS = 60_000
#: A bucket elsewhere that does not answer for so long when a pipeline is made is believed to be right.
BUCKET_CHECK_MS_MAX = 5_000
#: A bucket that is not there, or a key that does not open it, is looked at again this often at the least.
SINK_PAUSED_RETRY_MS = 60_000
#: The longest time that a refused client is told to wait.
RETRY_AFTER_S_MAX = 300
#: What a shard's ledger keeps, some 300 bytes each: half a year of a file every three minutes.
LEDGER_SEGMENTS_MAX = 100_000
#: Files that wait for their bucket on the local disk are written and read in pieces of this size. One segment may
#: have as many of them in memory as it has partitions.
SPOOL_PIECE_BYTES = 256 * KIB
#: Partitions that the records of one segment may choose: more files at once would hold as many buffers.
PARTITIONS_PER_SEGMENT_MAX = 256
#: What a dead letter says of its reason.
DEAD_DETAIL_LENGTH_MAX = 1_000
#: Verifying a pipeline: what one call looks at, so that it is over well before a client gives up. The time is
#: looked at after every few files; one file of the largest size takes some seconds more.
VERIFY_SEGMENTS_MAX = 200
VERIFY_MS_MAX = 5_000
#: Objects asked for at once, and read at once (8 MiB each).
VERIFY_HEADS_MAX = 16
VERIFY_READS_MAX = 2
#: Objects of one listing, which is what S3 gives at once.
VERIFY_OBJECTS_MAX = 1_000
#: Problems that one call tells of, some 300 bytes each; it ends after the segment in which there are so many.
VERIFY_PROBLEMS_MAX = 1_000
#: Other pipelines that are asked whether a file is theirs. Beyond, a file is not called extra.
VERIFY_OTHERS_MAX = 1_000
#: A cursor is some 200 bytes and a key.
CURSOR_LENGTH_MAX = 4_096
#: Sending dead letters again: files and time of one call, and the bytes of records that go as one request.
REPLAY_FILES_MAX = 100
REPLAY_MS_MAX = 5_000
REPLAY_PIECE_BYTES = 1 * MIB
#: A sealed range is read and compressed in pieces of about this size, so memory does not grow with the file.
READ_CHUNK_BYTES = 1 * MIB
#: Buckets elsewhere. The longest host name has 253 characters; the others are several times what is in use: keys of
#: AWS have 16 to 128 and 40 characters, those of R2 32 and 64.
S3_ENDPOINT_LENGTH_MAX = 1_024
S3_REGION_LENGTH_MAX = 64
ACCESS_KEY_ID_LENGTH_MAX = 256
SECRET_ACCESS_KEY_LENGTH_MAX = 1_024
#: An object up to this size is one request, a larger one is sent in parts of it: 10,000 of them, the protocol's
#: most, are 80 GB. (The least that it allows is 5 MiB.)
S3_PART_BYTES = 8 * MIB
#: Parts of one upload on their way at once. With the one being made, and the one that the client gathers, an upload
#: takes the memory of about four parts.
S3_PARTS_MAX = 2
#: Uploads at once per executor: 256 MiB of parts at the worst. And with one connection, which a pipeline has to
#: itself, so that a server that hangs does not hold up all others.
S3_UPLOADS_MAX = 8
S3_UPLOADS_PER_CONNECTION_MAX = 2
#: Clients kept, each with a pool of connections; another one costs a TLS handshake.
S3_CLIENTS_MAX = 128
S3_CONNECT_SECONDS_MAX = 5
#: One request, its body included: 140 KB/s at least for a part.
S3_REQUEST_SECONDS_MAX = 60
#: Within one call a failed request is made again this often, with jitter, unless that much time has passed: for
#: what is over in a moment. All longer trouble is the caller's, who waits without holding parts in memory. A
#: request that fails takes 75 s at the worst.
S3_RETRIES_MAX = 3
S3_RETRY_SECONDS_MAX = 15
#: A cancelled upload may take this long to take itself back.
S3_ABORT_SECONDS_MAX = 5
#: Rows of a delivered file are freed in slices of this many bytes and rows, so that no slice holds the event
#: loop for more than a few milliseconds.
FREE_SLICE_BYTES = 4 * MIB
FREE_SLICE_ROWS = 1_000
#: Free pages that a database keeps for what comes next: writing into them costs less than making the file longer.
FREE_BYTES_KEPT = 64 * MIB

#: Pipelines: the ranges of Cloudflare's legacy pipelines API.
PIPELINE_NAME_LENGTH_MAX = 128
SHARDS_MAX = 15
#: Origins that a pipeline's settings name: they are part of its plan, which every executor holds.
CORS_ORIGINS_MAX = 100
#: A host's name has 253 characters at most.
ORIGIN_LENGTH_MAX = 300
#: How long a browser may remember that an origin may send: no browser keeps it for longer than a day.
CORS_MAX_AGE_S = 86_400
BATCH_BYTES_MAX_DEFAULT = 100_000_000
BATCH_BYTES_MAX_RANGE = (1, 100_000_000)
BATCH_SECONDS_MAX_DEFAULT = 300.0
BATCH_SECONDS_MAX_RANGE = (0.25, 300.0)
BATCH_RECORDS_MAX_DEFAULT = 10_000_000
BATCH_RECORDS_MAX_RANGE = (1, 10_000_000)
PREFIX_LENGTH_MAX = 512
#: S3's bound of a key, in bytes of UTF-8.
KEY_BYTES_MAX = 1_024
#: Templates of a file's folder and name, and the name of the field that records are partitioned by.
TEMPLATE_LENGTH_MAX = 256
FIELD_NAME_LENGTH_MAX = 256
#: Transforms of one pipeline, one after the other.
TRANSFORMS_MAX = 8
LIST_PER_PAGE_MAX = 100
#: Pipelines that an executor counts one by one, about 1 KB and a dozen lines of its metrics each; those that came
#: later are counted together.
PIPELINES_COUNTED_MAX = 1_000
#: Those who watch a shard's records, and clients that watch any through one executor: each takes up to
#: `TAIL_BUFFER_BYTES` in memory per shard. What does not fit is dropped and counted.
TAIL_LISTENERS_MAX = 8
TAILS_MAX = 32
TAIL_BUFFER_BYTES = 1 * MIB
#: Which shards take records is looked at this often while somebody watches them.
TAIL_FOLLOW_MS = 2_000
#: An empty line is sent this often: proxies give up on a connection that says nothing for 30 to 60 s.
TAIL_KEEP_ALIVE_MS = 10_000
#: A query over records: how long it may take, and how many run on one executor at once. Each is a process, whose
#: memory DuckDB bounds by itself; what does not fit goes to disk. Addresses are more: threads and libraries reserve
#: what they never use. With two threads, so that an executor beside it has a core.
RECORDS_QUERY_MS_MAX = 30_000
RECORDS_QUERIES_MAX = 2
RECORDS_QUERY_THREADS = 2
QUERY_MEMORY_BYTES_MAX = 256 * MIB
QUERY_ADDRESS_BYTES_MAX = 4 * GIB
#: What it copies, from buckets elsewhere say, and likewise what goes to disk.
QUERY_COPIED_BYTES_MAX = 1 * GIB
#: Files of one pipeline that it may choose from: their paths are a few MB.
QUERY_FILES_MAX = 50_000
RECORDS_QUERY_TABLES_MAX = 16
#: What it may give: what a person looks at, or a script takes in at once. More is for a tool that reads the files.
RECORDS_QUERY_ROWS_MAX = 10_000
RECORDS_QUERY_RESULT_BYTES_MAX = 16 * MIB
RECORDS_QUERY_FRAME_BYTES_MAX = 64 * MIB
#: An executor that has not said what it counted of a pipeline by then is left out, and the answer says so.
USAGE_TIMEOUT_MS = 2_000

#: Pipelines whose plan one executor keeps in memory. A miss costs one call to the coordinator.
PLANS_CACHED_MAX = 10_000
#: A cached plan is refreshed after this time even if nothing told the broker to.
PLAN_TTL_MS = 30_000
#: Before a request is refused because of a cached plan older than this, the plan is fetched again. It bounds what
#: refused requests cost the coordinator to one call a second and executor.
PLAN_DOUBT_MS = 1_000

#: Transforms. A name stands in settings, metrics and dead letters.
TRANSFORM_NAME_LENGTH_MAX = 64
#: What one call of a transform may take. A longer one keeps all transforms of its executor waiting.
TRANSFORM_DEADLINE_MS_DEFAULT = 10_000
TRANSFORM_DEADLINE_MS_RANGE = (10, 300_000)
#: Records of one call. More save little: a call costs about 0.3 ms beside what the function does.
TRANSFORM_BATCH_RECORDS_MAX_DEFAULT = 1_000
TRANSFORM_BATCH_RECORDS_MAX_RANGE = (1, 10_000)
#: Bytes of one call's records, unless it is one record. As Python objects they take about ten times as much.
TRANSFORM_BATCH_BYTES_MAX = 1 * MIB
#: What one call may give, and what all calls of one run may give together, in memory; for a longer input a multiple
#: of it. Records that make more are dead.
TRANSFORM_CALL_OUTPUT_BYTES_MAX = 16 * MIB
TRANSFORM_OUTPUT_BYTES_MAX = 64 * MIB
TRANSFORM_OUTPUT_GROWTH_MAX = 4
#: Ends of the worker in one run after which no more lists are halved to find out which record it was: each costs
#: the start of a process (about 0.3 s). Two records among 1,000 take 24 at most.
TRANSFORM_DEATHS_MAX = 32
#: What is kept of the reason why a record is dead.
TRANSFORM_DETAIL_LENGTH_MAX = 1_000
#: The start of a worker, which imports the application: large libraries take seconds.
WORKER_START_MS_MAX = 60_000
#: A worker ends itself at the deadline; one that does not, stopped by a signal say, is killed this much later.
WORKER_OVERDUE_MS_MAX = 5_000
#: What was in the pipe of a worker that ended is there at once.
WORKER_LAST_WORDS_MS_MAX = 1_000
#: What a worker prints goes to the log: so many lines in an interval, each of so many characters.
WORKER_LINES_MAX = 100
WORKER_LINES_INTERVAL_MS = 10_000
WORKER_LINE_LENGTH_MAX = 1_000
#: A request with an Idempotency-Key is stored once within this time.
IDEMPOTENCY_KEY_MS = 24 * 3_600_000
IDEMPOTENCY_KEY_LENGTH_MAX = 255
#: Keys of one pipeline in that time, at about 200 bytes of disk each: some 90 requests a second all day.
IDEMPOTENCY_KEYS_MAX = 8_000_000
#: Objects that they are spread over. It must never change: a key is looked for where its hash leads.
IDEMPOTENCY_PARTITIONS = 16
#: Expired keys that are deleted at once: a few milliseconds.
IDEMPOTENCY_EXPIRED_SLICE = 1_000
#: Expired keys that a shard deletes with each new one: more than one, so that they become fewer.
SHARD_KEYS_EXPIRED_SLICE = 4
#: Stored requests of which an executor has yet to tell their keys. It drops more; a retry then asks the shard.
IDEMPOTENCY_NOTES_MAX = 1_000

#: Queues: the ranges of Cloudflare's API, where it has them.
QUEUES_MAX = 10_000
QUEUE_NAME_LENGTH_MAX = 63
#: Of one queue that takes more than one. Each has a row for every message that it was given and is not done with.
CONSUMERS_MAX = 16
#: Of a message that is sent, and of one that is retried.
DELAY_S_MAX = 86_400
RETENTION_S_RANGE = (60, 1_209_600)
DEDUP_WINDOW_S_MAX = 86_400
CONSUMER_BATCH_MESSAGES_RANGE = (1, 100)
CONSUMER_RETRIES_MAX = 100
CONSUMER_WAIT_MS_MAX = 60_000
VISIBILITY_TIMEOUT_MS_RANGE = (1, 43_200_000)
#: What the answer to one HTTP push may take: Cloudflare lets a consumer run for 15 minutes.
PUSH_TIMEOUT_MS_RANGE = (100, 900_000)
#: What clients and proxies commonly take; and the longest that a script's name may be at Cloudflare.
PUSH_URL_LENGTH_MAX = 2_048
SCRIPT_NAME_LENGTH_MAX = 255
#: A signing secret that a user brings: Standard Webhooks asks for 24 to 64 bytes, in base64 with a prefix.
PUSH_SECRET_LENGTH_MAX = 128

#: Tokens with scopes. An operator makes them by hand; every one is a row of one object.
TOKENS_MAX = 10_000
TOKEN_NAME_LENGTH_MAX = 100
TOKEN_PIPELINES_MAX = 100
TOKEN_QUEUES_MAX = 100
#: Tokens that one executor remembers, and as many that there are not: about 300 bytes each.
TOKENS_CACHED_MAX = 10_000
#: How long what is known of a token is trusted without asking again: so long a revoked token may still work.
TOKEN_TRUSTED_MS_MAX = 5_000
#: How long it is trusted that there is no such token: so long a wrong one costs nobody a call.
TOKEN_MISSING_MS_MAX = 1_000

EXECUTORS_MAX = 64

#: The sending client (`penstock.Client`). Its first wait is drawn from up to this: longer than most hiccups of a
#: network, shorter than a person notices. The bound of the wait then doubles, up to 10 s: a server that starts
#: again is found soon after.
CLIENT_RETRY_BASE_MS = 100
CLIENT_RETRY_MAX_MS = 10_000
#: Batches of one pipeline on their way at once: enough to keep a connection of 50 ms busy with batches of 1 MB.
CLIENT_REQUESTS_MAX = 4
#: What a client reads of an answer: those of ingestion have less than 1 KiB, a pipeline's description a few.
CLIENT_ANSWER_BYTES_MAX = 1 * MIB
#: An idempotency key that a user of the client chooses.
CLIENT_KEY_LENGTH_MAX = 128

#: Queues. Ids and keys that a storage shard remembers, at about 60 bytes each: 90 a second for a day.
QUEUE_RECOGNISED_MAX = 8_000_000
#: How long dead letters and what is redriven are recognised when they come again after a crash.
QUEUE_MOVED_WINDOW_MS = 24 * 3_600_000
#: How long one call may wait for messages: well below `CALL_TIMEOUT_MS`.
QUEUE_WAIT_MS_MAX = 20_000
#: Calls that wait for messages of one consumer at one storage shard.
QUEUE_WAITERS_MAX = 1_000
#: Messages of one batch (Cloudflare: 100).
QUEUE_BATCH_MESSAGES_MAX = 100
#: Messages that are deleted in one step, while others wait: a few milliseconds.
QUEUE_SLICE_MESSAGES = 1_000
#: A storage shard that has work, and nobody to take it, looks after it this often at the least.
QUEUE_TICK_MS = 5_000
#: Consumer shards are told that there is work this often at the most.
QUEUE_RING_MS = 1_000
#: Dead letters that are moved at once, and the bound of the wait after a failure.
QUEUE_DEAD_BATCH = 100
QUEUE_DEAD_RETRY_MS_MAX = 60_000
