
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
