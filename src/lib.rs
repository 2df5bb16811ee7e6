//! `wakeport` makes an idle service cost nothing: it wakes the service for the first
//! connection, relays, and puts it to sleep again a while after the last client left.
