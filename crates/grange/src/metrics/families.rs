//! What is counted: the families of counters that the farms keep on their scoreboards, and what each means.

/// A family of counters: the stage that keeps it (`agent` for the farms of channels), its name, and what it counts.
pub(super) type Counted = (&'static str, &'static str, &'static str);

/// Every counter of every farm, without the `_total` behind it.
pub(super) const COUNTED: &[Counted] = &[
    ("smtpserver", "accepted", "Messages accepted: stored, synced and answered with 250"),
    ("smtpserver", "rejected", "Messages refused for good after DATA"),
    ("smtpserver", "tempfailed", "Messages refused for now after DATA"),
    ("smtpserver", "discarded", "Messages answered with 250 and dropped, as a filter said"),
    ("smtpserver", "sessions", "Sessions begun"),
    ("smtpserver", "sessions_refused", "Sessions refused, because there were too many"),
    ("smtpserver", "sessions_timed_out", "Sessions closed, because the client took too long"),
    ("smtpserver", "bytes", "Bytes of accepted messages"),
    ("smtpserver", "recipients", "Recipients taken at RCPT"),
    ("smtpserver", "recipients_refused", "Recipients refused at RCPT"),
    (
        "smtpserver",
        "verify_failures",
        "Questions about recipients that router did not answer in time",
    ),
    ("smtpserver", "inspect_failures", "Messages that contentfilter did not judge in time"),
    ("smtpserver", "route_hints", "Messages told to router"),
    (
        "smtpserver",
        "route_hints_dropped",
        "Messages not told to router for want of room, left to requeue",
    ),
    ("smtpserver", "route_hints_unanswered", "Messages told to router, whose answer did not come"),
    ("contentfilter", "inspected", "Messages looked at"),
    ("contentfilter", "rejected", "Messages refused for good"),
    ("contentfilter", "tempfailed", "Messages refused for now"),
    ("contentfilter", "quarantined", "Messages taken to be held"),
    ("contentfilter", "discarded", "Messages taken to be dropped"),
    ("contentfilter", "failures", "Filters that could not be asked"),
    ("contentfilter", "scanned_bytes", "Bytes looked at"),
    (
        "contentfilter",
        "steps",
        "Steps of sessions that filters were told of, before or after their messages",
    ),
    ("contentfilter", "bodies_replaced", "Messages that filters gave another body"),
    ("router", "routed", "Messages handed to the scheduler"),
    ("router", "route_failed", "Messages that could not be handed over, left to requeue"),
    ("router", "recipients", "Recipients routed, aliases expanded"),
    ("router", "recipients_failed", "Recipients for whom there is no way"),
    ("router", "verified", "Recipients found right for smtpserver, as often as it asked"),
    ("router", "verify_unknown", "Recipients found unknown for smtpserver"),
    ("router", "verify_denied", "Recipients to whom the client may not send"),
    ("router", "verify_tempfail", "Recipients that could not be judged now"),
    ("router", "tables_read", "Tables read"),
    ("router", "tables_failed", "Tables that could not be read"),
    ("scheduler", "enqueued", "Messages taken over from router"),
    ("scheduler", "retired", "Messages that ended"),
    ("scheduler", "jobs", "Jobs given to agents"),
    ("scheduler", "delivered", "Recipients delivered"),
    ("scheduler", "deferred", "Attempts of recipients deferred"),
    ("scheduler", "failed", "Recipients failed"),
    ("scheduler", "expired", "Recipients failed because their time was over"),
    ("scheduler", "reports", "Delivery reports asked for"),
    ("scheduler", "lane_failures", "Failures of a whole lane, such as a refused connection"),
    ("scheduler", "lost_jobs", "Jobs whose agent went away before it answered"),
    ("scheduler", "strikes", "Deaths of workers with a message in hand"),
    ("scheduler", "held", "Messages and recipients held"),
    ("scheduler", "moved", "Messages that live in files of their own since they were copied"),
    ("requeue", "passes", "Passes over accepted messages"),
    (
        "requeue",
        "passes_cut_short",
        "Passes ended early, because scheduler or router did not answer",
    ),
    ("requeue", "messages_examined", "Accepted messages looked at"),
    ("requeue", "messages_wanted", "Accepted messages that the scheduler lacked"),
    ("requeue", "messages_routed", "Messages sent to router again"),
    ("requeue", "messages_failed", "Messages sent to router again in vain"),
    ("requeue", "strikes", "Messages told to the scheduler as in the hands of a worker that died"),
    ("compact", "passes", "Passes over segments"),
    (
        "compact",
        "passes_cut_short",
        "Passes ended early, because scheduler or disk did not do their part",
    ),
    ("compact", "segments_examined", "Segments of which scheduler was asked what lives in them"),
    ("compact", "segments_emptied", "Segments out of which all that lived was moved"),
    ("compact", "messages_moved", "Messages moved to files of their own"),
    ("compact", "messages_damaged", "Messages found to be damaged, which keep their segments"),
    ("compact", "bytes_copied", "Bytes of the messages that were copied"),
    ("compact", "copies_removed", "Copies removed because their messages had ended"),
    ("agent", "recipients_delivered", "Recipients delivered"),
    ("agent", "recipients_deferred", "Recipients deferred"),
    ("agent", "recipients_failed", "Recipients failed"),
    ("agent", "connections", "Connections made"),
    ("agent", "connections_reused", "Messages sent over a connection that was there"),
    ("agent", "connections_failed", "Connections that could not be made"),
    ("agent", "sent_bytes", "Bytes of messages sent"),
    ("agent", "maildir_bytes_written", "Bytes written into Maildirs"),
    ("agent", "maildir_repeated", "Messages that were in their Maildir already"),
    ("agent", "maildir_syncs", "Syncs of Maildirs"),
    ("agent", "reports_failure", "Reports of failure written"),
    ("agent", "reports_delay", "Reports of delay written"),
    ("agent", "reports_success", "Reports of success written"),
    (
        "agent",
        "reports_double_bounce",
        "Failures of messages without a sender, which nobody is told of",
    ),
    (
        "agent",
        "route_hints_dropped",
        "Reports not told to router for want of room, left to requeue",
    ),
];

/// The stage that a farm is, as its families are named.
pub(super) fn stage(farm: &str) -> &str {
    match COUNTED.iter().any(|(stage, ..)| *stage == farm) {
        true => farm,
        false => "agent",
    }
}

/// What a counter of a stage counts.
pub(super) fn help(stage: &str, name: &str) -> &'static str {
    let found = COUNTED.iter().find(|(of, counted, _)| *of == stage && *counted == name);
    found.map_or("Counted by the farm's workers", |(.., help)| help)
}
