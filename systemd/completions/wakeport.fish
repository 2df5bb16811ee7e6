# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_wakeport_global_optspecs
    string join \n h/help V/version
end

function __fish_wakeport_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_wakeport_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_wakeport_using_subcommand
    set -l cmd (__fish_wakeport_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c wakeport -n "__fish_wakeport_needs_command" -s h -l help -d 'Print help'
complete -c wakeport -n "__fish_wakeport_needs_command" -s V -l version -d 'Print version'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "run" -d 'Waits for clients, and wakes the service for them'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "check" -d 'Verify an installed instance or a command line without starting anything'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "status" -d 'Show every instance on the machine, asleep ones included'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "wake" -d 'Start a service, and return when it answers'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "hold" -d 'Keep a service awake until a time, or as long as a command runs'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "sleep" -d 'Stop a service now, without waiting for the end of its cooldown'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "exporter" -d 'Serve the metrics of every instance to Prometheus, at /metrics'
complete -c wakeport -n "__fish_wakeport_needs_command" -f -a "init" -d 'Put a service behind wakeport: print the units, or install them'
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l to -d 'Where to relay to: host:port, host (the listener\'s own port), /path, @abstract; udp:host:port for datagrams; with --scale also service/NAME or service/NAME:PORT, the ready pods of a Service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l unit -d 'Start and stop this unit over D-Bus; a name without a suffix means .service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l user -d 'Use the user\'s service manager instead of the system\'s' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l start-hook -d 'Start the service with this program; split as a shell would, but no shell runs' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l stop-hook -d 'Stop the service with this program; retried with a back-off until it exits with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l freeze-hook -d 'Freeze the service with this program when --freeze-after is over; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l thaw-hook -d 'Thaw the service with this program, for a client or to stop it; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l exec -d 'Run the service as a child process, which ends with wakeport' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l ready -d 'What the target does when it is ready: connect, banner (it sends a first byte), or http://HOST:PORT/PATH (it answers below 500; http:///PATH asks the target itself)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l ready-hook -d 'Run this program before the target is probed; it has to exit with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l stop-on-exit -d 'On SIGTERM, stop the service after draining' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l scale -d 'Scale this workload to zero and back: deployment/NAME, statefulset/NAME, or PLURAL[.VERSION].GROUP/NAME for any resource that has a scale' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l namespace -d 'Where the workloads of --scale live [default: the namespace of wakeport\'s own pod, or of the kubeconfig]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l replicas -d 'How many pods a wake asks for: a number, or as many as there were before the last stop' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l overlap -d 'Let new pods start while old ones terminate' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l lease -d 'The Lease by which several wakeports in front of one workload agree [default: wakeport-KIND-NAME]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l kube-api -d 'Another API server than that of the pod or the kubeconfig: http://127.0.0.1:8001 is what `kubectl proxy` serves' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l kube-credentials -d 'A folder with `token`, `ca.crt` and `namespace`, as a pod has them, for --kube-api' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l send-proxy -d 'Tell the target the client\'s address, by a PROXY header of this version: v1 or v2' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l accept-proxy -d 'Take the client\'s address from the PROXY header, v1 or v2, that the load balancer in front sends' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l allow -d 'Accept clients from this network: 192.0.2.0/24, 2001:db8::1, any, localhost, link-local' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l deny -d 'Reset clients from this network, before they wake the service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l wake-on-data -d 'Wake the service only once a client has sent data: a port scan wakes nothing' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l wake-rate -d 'Wake the service at most N times in any such TIME, as in 6/1h; clients for whom it would be woken once more are reset' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l http -d 'Speak HTTP with clients and target: requests wake the service and keep it awake, idle connections do not' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l host -d 'Whose requests the service gets: a host, `*.example.org` for all below it, or `*`; implies --http, unless --tls is given' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l path -d 'Of these hosts, only the paths that begin so, in whole segments: `/app` has `/app/x` and not `/apple`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l target-protocol -d 'What the target speaks: http1, or h2c, which is HTTP/2 without TLS, as servers of gRPC do' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l quiet -d 'Requests that neither wake the service nor keep it awake: `/path`, `/start/*`, `method:HEAD`, `agent:NAME` (a part of User-Agent) or `from:CIDR`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l wake-only -d 'Only these requests wake the service and keep it awake, in the words of --quiet' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l quiet-defaults -d 'Take /favicon.ico, /apple-touch-icon*, /robots.txt, prefetches, crawlers and `OPTIONS *` for quiet, too' -r -f -a "true\t''
false\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l quiet-answer -d 'The status with which quiet requests are answered while the service sleeps' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l page-after -d 'Show browsers a waiting page if the service is not expected to answer within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l page -d 'The waiting page, as an HTML file of at most 64 KiB, instead of the one of wakeport' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l page-status -d 'The status of the waiting page: 503, or 200 where a proxy in front replaces pages with 503' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l page-details -d 'Say on the page why the service could not be started, and what a workload\'s pods wait for' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l trust -d 'Pass on what proxies in this network say of their clients (X-Forwarded-For, Forwarded, ...); from others that is removed' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l access-log -d 'Log each request: client, method, host and path, status, times and bytes' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l tls -d '`pass`: pass TLS through to the service whose --host is the name that the client asks for (SNI)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l udp-wake -d 'Which datagrams wake the service: any, raknet, source, quic, wireguard, or those that begin with these bytes, HEX or HEX/MASK, followed by ,LEN+ for a length' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l udp-idle-timeout -d 'Take a client for gone after this time without a datagram' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l cooldown -d 'Stop the service this long after the last connection closes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l freeze-after -d 'Freeze the service this long after the last connection closes: it keeps its memory, does nothing, and answers the next client within milliseconds' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l freeze-reclaim -d 'Have the kernel reclaim the memory of what was frozen: it swaps out, and drops caches' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l start-timeout -d 'Fail the wake if the service does not answer within this time [default: 90s; with --scale 10min]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l stop-timeout -d 'Fail the stop if the service is not down within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l direct-connections -d 'Whether connections to the targets that bypass wakeport keep the service awake: count or ignore' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l busy-hook -d 'Ask this program before the service is stopped; exit code 1 keeps it awake' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l busy-cpu -d 'Keep the units awake while they use more CPU, as in 1% of one core; a mean over 30 s' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l busy-io -d 'Keep the units awake while they read and write more, as in 100K bytes a second; a mean over 30 s; the units need IOAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l busy-net -d 'Keep the units awake while they send and receive more, as in 10K bytes a second; a mean over 30 s; the units need IPAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l busy-limit -d 'Stop the service all the same after it was kept awake for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l client-idle-timeout -d 'Close a connection that has been idle for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l keepalive-time -d 'Send TCP keepalive probes after this time without data' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l keepalive-interval -d 'Time between two keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l keepalive-probes -d 'Close the connection after this many unanswered keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l user-timeout -d 'Close the connection when data remains unacknowledged for this long; infinity leaves it to the kernel' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l config -d 'Read services from this TOML file and its drop-ins, FILE.d/*.toml; with a - before its name it may be missing' -r -F
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l listen -d 'Listen on this address instead of taking sockets from systemd: ADDRESS:PORT, PORT, /path, @abstract, or udp:PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l max-connections -d 'Relay at most so many connections at once; the others wait in the kernel\'s backlog [default: as many as the limit on open files allows]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l max-waiting -d 'Let at most so many clients wait for the service; the others wait in the backlog' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l threads -d 'Relay on at most so many threads; they are started as clients come [default: one for each core]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l drain-timeout -d 'Reset the connections that are still open this long after SIGTERM' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l drain-delay -d 'Go on accepting connections for this long after SIGTERM, while /readyz says that it is ending' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l stay -d 'Do not exit when idle' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l log-level -d 'How much to log' -r -f -a "error\t'What failed'
warn\t'And what needs attention'
info\t'And every change of state'
debug\t'And every connection'
trace\t'And everything else'"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l log-format -d 'Where to log' -r -f -a "auto\t'The journal when stderr is the journal, readable lines otherwise'
journal\t'The journal, with fields'
text\t'Readable lines on stderr'
json\t'A JSON object a line on stderr, with the journal\'s fields'"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l name -d 'What `wakeport status` and the metrics call this instance; by default as its unit is called, without wakeport@' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l state-dir -d 'Keep in this directory what `wakeport status` shows: instances/NAME.json, readable for all users [default: the unit\'s StateDirectory=; by hand nothing is kept]' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l metrics -d 'With --listen, serve metrics for Prometheus on this address, at /metrics: ADDRESS:PORT, PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -l keda -d 'With --scale, serve KEDA\'s external-push scaler on this address: ADDRESS:PORT, PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l to -d 'Where to relay to: host:port, host (the listener\'s own port), /path, @abstract; udp:host:port for datagrams; with --scale also service/NAME or service/NAME:PORT, the ready pods of a Service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l unit -d 'Start and stop this unit over D-Bus; a name without a suffix means .service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l user -d 'Use the user\'s service manager instead of the system\'s' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l start-hook -d 'Start the service with this program; split as a shell would, but no shell runs' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l stop-hook -d 'Stop the service with this program; retried with a back-off until it exits with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l freeze-hook -d 'Freeze the service with this program when --freeze-after is over; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l thaw-hook -d 'Thaw the service with this program, for a client or to stop it; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l exec -d 'Run the service as a child process, which ends with wakeport' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l ready -d 'What the target does when it is ready: connect, banner (it sends a first byte), or http://HOST:PORT/PATH (it answers below 500; http:///PATH asks the target itself)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l ready-hook -d 'Run this program before the target is probed; it has to exit with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l stop-on-exit -d 'On SIGTERM, stop the service after draining' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l scale -d 'Scale this workload to zero and back: deployment/NAME, statefulset/NAME, or PLURAL[.VERSION].GROUP/NAME for any resource that has a scale' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l namespace -d 'Where the workloads of --scale live [default: the namespace of wakeport\'s own pod, or of the kubeconfig]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l replicas -d 'How many pods a wake asks for: a number, or as many as there were before the last stop' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l overlap -d 'Let new pods start while old ones terminate' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l lease -d 'The Lease by which several wakeports in front of one workload agree [default: wakeport-KIND-NAME]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l kube-api -d 'Another API server than that of the pod or the kubeconfig: http://127.0.0.1:8001 is what `kubectl proxy` serves' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l kube-credentials -d 'A folder with `token`, `ca.crt` and `namespace`, as a pod has them, for --kube-api' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l send-proxy -d 'Tell the target the client\'s address, by a PROXY header of this version: v1 or v2' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l accept-proxy -d 'Take the client\'s address from the PROXY header, v1 or v2, that the load balancer in front sends' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l allow -d 'Accept clients from this network: 192.0.2.0/24, 2001:db8::1, any, localhost, link-local' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l deny -d 'Reset clients from this network, before they wake the service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l wake-on-data -d 'Wake the service only once a client has sent data: a port scan wakes nothing' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l wake-rate -d 'Wake the service at most N times in any such TIME, as in 6/1h; clients for whom it would be woken once more are reset' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l http -d 'Speak HTTP with clients and target: requests wake the service and keep it awake, idle connections do not' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l host -d 'Whose requests the service gets: a host, `*.example.org` for all below it, or `*`; implies --http, unless --tls is given' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l path -d 'Of these hosts, only the paths that begin so, in whole segments: `/app` has `/app/x` and not `/apple`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l target-protocol -d 'What the target speaks: http1, or h2c, which is HTTP/2 without TLS, as servers of gRPC do' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l quiet -d 'Requests that neither wake the service nor keep it awake: `/path`, `/start/*`, `method:HEAD`, `agent:NAME` (a part of User-Agent) or `from:CIDR`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l wake-only -d 'Only these requests wake the service and keep it awake, in the words of --quiet' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l quiet-defaults -d 'Take /favicon.ico, /apple-touch-icon*, /robots.txt, prefetches, crawlers and `OPTIONS *` for quiet, too' -r -f -a "true\t''
false\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l quiet-answer -d 'The status with which quiet requests are answered while the service sleeps' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l page-after -d 'Show browsers a waiting page if the service is not expected to answer within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l page -d 'The waiting page, as an HTML file of at most 64 KiB, instead of the one of wakeport' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l page-status -d 'The status of the waiting page: 503, or 200 where a proxy in front replaces pages with 503' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l page-details -d 'Say on the page why the service could not be started, and what a workload\'s pods wait for' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l trust -d 'Pass on what proxies in this network say of their clients (X-Forwarded-For, Forwarded, ...); from others that is removed' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l access-log -d 'Log each request: client, method, host and path, status, times and bytes' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l tls -d '`pass`: pass TLS through to the service whose --host is the name that the client asks for (SNI)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l udp-wake -d 'Which datagrams wake the service: any, raknet, source, quic, wireguard, or those that begin with these bytes, HEX or HEX/MASK, followed by ,LEN+ for a length' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l udp-idle-timeout -d 'Take a client for gone after this time without a datagram' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l cooldown -d 'Stop the service this long after the last connection closes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l freeze-after -d 'Freeze the service this long after the last connection closes: it keeps its memory, does nothing, and answers the next client within milliseconds' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l freeze-reclaim -d 'Have the kernel reclaim the memory of what was frozen: it swaps out, and drops caches' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l start-timeout -d 'Fail the wake if the service does not answer within this time [default: 90s; with --scale 10min]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l stop-timeout -d 'Fail the stop if the service is not down within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l direct-connections -d 'Whether connections to the targets that bypass wakeport keep the service awake: count or ignore' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l busy-hook -d 'Ask this program before the service is stopped; exit code 1 keeps it awake' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l busy-cpu -d 'Keep the units awake while they use more CPU, as in 1% of one core; a mean over 30 s' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l busy-io -d 'Keep the units awake while they read and write more, as in 100K bytes a second; a mean over 30 s; the units need IOAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l busy-net -d 'Keep the units awake while they send and receive more, as in 10K bytes a second; a mean over 30 s; the units need IPAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l busy-limit -d 'Stop the service all the same after it was kept awake for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l client-idle-timeout -d 'Close a connection that has been idle for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l keepalive-time -d 'Send TCP keepalive probes after this time without data' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l keepalive-interval -d 'Time between two keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l keepalive-probes -d 'Close the connection after this many unanswered keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l user-timeout -d 'Close the connection when data remains unacknowledged for this long; infinity leaves it to the kernel' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l config -d 'Read services from this TOML file and its drop-ins, FILE.d/*.toml; with a - before its name it may be missing' -r -F
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l listen -d 'Listen on this address instead of taking sockets from systemd: ADDRESS:PORT, PORT, /path, @abstract, or udp:PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l max-connections -d 'Relay at most so many connections at once; the others wait in the kernel\'s backlog [default: as many as the limit on open files allows]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l max-waiting -d 'Let at most so many clients wait for the service; the others wait in the backlog' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l threads -d 'Relay on at most so many threads; they are started as clients come [default: one for each core]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l drain-timeout -d 'Reset the connections that are still open this long after SIGTERM' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l drain-delay -d 'Go on accepting connections for this long after SIGTERM, while /readyz says that it is ending' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l stay -d 'Do not exit when idle' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l log-level -d 'How much to log' -r -f -a "error\t'What failed'
warn\t'And what needs attention'
info\t'And every change of state'
debug\t'And every connection'
trace\t'And everything else'"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l log-format -d 'Where to log' -r -f -a "auto\t'The journal when stderr is the journal, readable lines otherwise'
journal\t'The journal, with fields'
text\t'Readable lines on stderr'
json\t'A JSON object a line on stderr, with the journal\'s fields'"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l name -d 'What `wakeport status` and the metrics call this instance; by default as its unit is called, without wakeport@' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l state-dir -d 'Keep in this directory what `wakeport status` shows: instances/NAME.json, readable for all users [default: the unit\'s StateDirectory=; by hand nothing is kept]' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l metrics -d 'With --listen, serve metrics for Prometheus on this address, at /metrics: ADDRESS:PORT, PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -l keda -d 'With --scale, serve KEDA\'s external-push scaler on this address: ADDRESS:PORT, PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand status" -l state-dir -d 'Read records from this directory only, and ask no service manager. May be repeated' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand status" -l json -d 'Print JSON; docs/observing.md lists the fields. With --watch one line a second'
complete -c wakeport -n "__fish_wakeport_using_subcommand status" -l watch -d 'Refresh every second, until Ctrl-C'
complete -c wakeport -n "__fish_wakeport_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand wake" -l control -d 'Use this control socket instead of /run/wakeport.control/NAME' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand wake" -l user -d 'An instance of the calling user\'s service manager'
complete -c wakeport -n "__fish_wakeport_using_subcommand wake" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l control -d 'Use this control socket instead of /run/wakeport.control/NAME' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l for -d 'Hold it for so long: 9h, 5min 20s' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l until -d 'Hold it until then: 18:00, 2026-12-24 18:00' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l since -d 'Hold it only if the first --until after this calendar event (systemd.time(7)) is still to come' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l reason -d 'Why, for `wakeport status`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -l user -d 'An instance of the calling user\'s service manager'
complete -c wakeport -n "__fish_wakeport_using_subcommand hold" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand sleep" -l control -d 'Use this control socket instead of /run/wakeport.control/NAME' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand sleep" -l user -d 'An instance of the calling user\'s service manager'
complete -c wakeport -n "__fish_wakeport_using_subcommand sleep" -l force -d 'Stop it under its clients as well, end its holds, and ask no busy hook'
complete -c wakeport -n "__fish_wakeport_using_subcommand sleep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand exporter" -l state-dir -d 'Read records from this directory; may be repeated [default: the system\'s and the user\'s]' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand exporter" -l idle-timeout -d 'Exit after this long without a scrape' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand exporter" -l listen -d 'Bind this address, and do not exit: ADDRESS:PORT, PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand exporter" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l add -d 'Add a service to the instance\'s file, /etc/wakeport/UNIT.toml: requests for HOST, or of it for PATH, go to PORT and wake the unit; instead of PORT also ADDRESS:PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l listen-udp -d 'A UDP port that wakeport listens on, beside --listen or alone: PORT, ADDRESS:PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l awake -d 'Hold the service awake from this calendar event on (systemd.time(7)), until --until: a timer and its service, which runs `wakeport hold`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l until -d 'The time of day at which --awake ends, as 18:00' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l asleep-from -d 'Stop the service at this calendar event, unless it is in use: a timer that runs `wakeport sleep`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l unit -d 'Start and stop this unit over D-Bus; a name without a suffix means .service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l user -d 'Use the user\'s service manager instead of the system\'s' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l start-hook -d 'Start the service with this program; split as a shell would, but no shell runs' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l stop-hook -d 'Stop the service with this program; retried with a back-off until it exits with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l freeze-hook -d 'Freeze the service with this program when --freeze-after is over; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l thaw-hook -d 'Thaw the service with this program, for a client or to stop it; it has to exit with 0 within 10 s' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l exec -d 'Run the service as a child process, which ends with wakeport' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l ready -d 'What the target does when it is ready: connect, banner (it sends a first byte), or http://HOST:PORT/PATH (it answers below 500; http:///PATH asks the target itself)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l ready-hook -d 'Run this program before the target is probed; it has to exit with 0' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l stop-on-exit -d 'On SIGTERM, stop the service after draining' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l scale -d 'Scale this workload to zero and back: deployment/NAME, statefulset/NAME, or PLURAL[.VERSION].GROUP/NAME for any resource that has a scale' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l namespace -d 'Where the workloads of --scale live [default: the namespace of wakeport\'s own pod, or of the kubeconfig]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l replicas -d 'How many pods a wake asks for: a number, or as many as there were before the last stop' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l overlap -d 'Let new pods start while old ones terminate' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l lease -d 'The Lease by which several wakeports in front of one workload agree [default: wakeport-KIND-NAME]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l kube-api -d 'Another API server than that of the pod or the kubeconfig: http://127.0.0.1:8001 is what `kubectl proxy` serves' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l kube-credentials -d 'A folder with `token`, `ca.crt` and `namespace`, as a pod has them, for --kube-api' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l send-proxy -d 'Tell the target the client\'s address, by a PROXY header of this version: v1 or v2' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l accept-proxy -d 'Take the client\'s address from the PROXY header, v1 or v2, that the load balancer in front sends' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l allow -d 'Accept clients from this network: 192.0.2.0/24, 2001:db8::1, any, localhost, link-local' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l deny -d 'Reset clients from this network, before they wake the service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l wake-on-data -d 'Wake the service only once a client has sent data: a port scan wakes nothing' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l wake-rate -d 'Wake the service at most N times in any such TIME, as in 6/1h; clients for whom it would be woken once more are reset' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l http -d 'Speak HTTP with clients and target: requests wake the service and keep it awake, idle connections do not' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l host -d 'Whose requests the service gets: a host, `*.example.org` for all below it, or `*`; implies --http, unless --tls is given' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l path -d 'Of these hosts, only the paths that begin so, in whole segments: `/app` has `/app/x` and not `/apple`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l target-protocol -d 'What the target speaks: http1, or h2c, which is HTTP/2 without TLS, as servers of gRPC do' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l quiet -d 'Requests that neither wake the service nor keep it awake: `/path`, `/start/*`, `method:HEAD`, `agent:NAME` (a part of User-Agent) or `from:CIDR`' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l wake-only -d 'Only these requests wake the service and keep it awake, in the words of --quiet' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l quiet-defaults -d 'Take /favicon.ico, /apple-touch-icon*, /robots.txt, prefetches, crawlers and `OPTIONS *` for quiet, too' -r -f -a "true\t''
false\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l quiet-answer -d 'The status with which quiet requests are answered while the service sleeps' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l page-after -d 'Show browsers a waiting page if the service is not expected to answer within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l page -d 'The waiting page, as an HTML file of at most 64 KiB, instead of the one of wakeport' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l page-status -d 'The status of the waiting page: 503, or 200 where a proxy in front replaces pages with 503' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l page-details -d 'Say on the page why the service could not be started, and what a workload\'s pods wait for' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l trust -d 'Pass on what proxies in this network say of their clients (X-Forwarded-For, Forwarded, ...); from others that is removed' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l access-log -d 'Log each request: client, method, host and path, status, times and bytes' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l tls -d '`pass`: pass TLS through to the service whose --host is the name that the client asks for (SNI)' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l udp-wake -d 'Which datagrams wake the service: any, raknet, source, quic, wireguard, or those that begin with these bytes, HEX or HEX/MASK, followed by ,LEN+ for a length' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l udp-idle-timeout -d 'Take a client for gone after this time without a datagram' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l cooldown -d 'Stop the service this long after the last connection closes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l freeze-after -d 'Freeze the service this long after the last connection closes: it keeps its memory, does nothing, and answers the next client within milliseconds' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l freeze-reclaim -d 'Have the kernel reclaim the memory of what was frozen: it swaps out, and drops caches' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l start-timeout -d 'Fail the wake if the service does not answer within this time [default: 90s; with --scale 10min]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l stop-timeout -d 'Fail the stop if the service is not down within this time' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l direct-connections -d 'Whether connections to the targets that bypass wakeport keep the service awake: count or ignore' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l busy-hook -d 'Ask this program before the service is stopped; exit code 1 keeps it awake' -r -f -a "(__fish_complete_command)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l busy-cpu -d 'Keep the units awake while they use more CPU, as in 1% of one core; a mean over 30 s' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l busy-io -d 'Keep the units awake while they read and write more, as in 100K bytes a second; a mean over 30 s; the units need IOAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l busy-net -d 'Keep the units awake while they send and receive more, as in 10K bytes a second; a mean over 30 s; the units need IPAccounting=yes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l busy-limit -d 'Stop the service all the same after it was kept awake for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l client-idle-timeout -d 'Close a connection that has been idle for this long' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l keepalive-time -d 'Send TCP keepalive probes after this time without data' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l keepalive-interval -d 'Time between two keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l keepalive-probes -d 'Close the connection after this many unanswered keepalive probes' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l user-timeout -d 'Close the connection when data remains unacknowledged for this long; infinity leaves it to the kernel' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l config -d 'Read services from this TOML file and its drop-ins, FILE.d/*.toml; with a - before its name it may be missing' -r -F
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l max-connections -d 'Relay at most so many connections at once; the others wait in the kernel\'s backlog [default: as many as the limit on open files allows]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l max-waiting -d 'Let at most so many clients wait for the service; the others wait in the backlog' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l threads -d 'Relay on at most so many threads; they are started as clients come [default: one for each core]' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l drain-timeout -d 'Reset the connections that are still open this long after SIGTERM' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l drain-delay -d 'Go on accepting connections for this long after SIGTERM, while /readyz says that it is ending' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l stay -d 'Do not exit when idle' -r -f -a "yes\t''
no\t''"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l log-level -d 'How much to log' -r -f -a "error\t'What failed'
warn\t'And what needs attention'
info\t'And every change of state'
debug\t'And every connection'
trace\t'And everything else'"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l log-format -d 'Where to log' -r -f -a "auto\t'The journal when stderr is the journal, readable lines otherwise'
journal\t'The journal, with fields'
text\t'Readable lines on stderr'
json\t'A JSON object a line on stderr, with the journal\'s fields'"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l name -d 'What `wakeport status` and the metrics call this instance; by default as its unit is called, without wakeport@' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l state-dir -d 'Keep in this directory what `wakeport status` shows: instances/NAME.json, readable for all users [default: the unit\'s StateDirectory=; by hand nothing is kept]' -r -f -a "(__fish_complete_directories)"
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l metrics -d 'With --listen, serve metrics for Prometheus on this address, at /metrics: ADDRESS:PORT, PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l keda -d 'With --scale, serve KEDA\'s external-push scaler on this address: ADDRESS:PORT, PORT' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l listen -d 'The address that wakeport listens on: ADDRESS:PORT, PORT, /path, @abstract' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l to -d 'Where to relay to: host:port, host (the listener\'s own port), /path, @abstract; udp:host:port for datagrams; with --scale also service/NAME or service/NAME:PORT, the ready pods of a Service' -r -f
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l write -d 'Write the files instead of printing them'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l enable -d 'Open the port at once, and at every boot'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l remove -d 'Close the port and remove the files that init has written for this instance'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l standalone -d 'Write complete units instead of drop-ins for the installed wakeport@.socket and .service'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -l force -d 'Overwrite files that init has not written, and enable in spite of errors'
complete -c wakeport -n "__fish_wakeport_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'

# The names of units, from systemd: services for `init` and `--unit`, instances for the others.
function __fish_wakeport_user
    contains -- --user (commandline -opc); and echo --user
end

function __fish_wakeport_services
    set -l user (__fish_wakeport_user)
    begin
        systemctl $user list-units --all --plain --no-legend --type=service
        systemctl $user list-unit-files --plain --no-legend --type=service
    end 2>/dev/null | sed 's/ .*//; /@\.service$/d; /^wakeport[@-]/d; s/\.service$//' | sort -u
end

function __fish_wakeport_instances
    systemctl (__fish_wakeport_user) list-units --all --plain --no-legend 'wakeport@*.socket' 2>/dev/null |
        sed 's/ .*//; s/^wakeport@//; s/\.socket$//'
end

complete -c wakeport -n "__fish_wakeport_using_subcommand init" -f -a "(__fish_wakeport_services)"
complete -c wakeport -n "__fish_wakeport_using_subcommand check status wake hold sleep" -f -a "(__fish_wakeport_instances)"
complete -c wakeport -n "__fish_wakeport_using_subcommand run init check" -l unit -x -a "(__fish_wakeport_services)"
