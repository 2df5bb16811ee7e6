
# The names of units, from systemd: services for `init` and `--unit`, instances for `check` and `status`.
_wakeport_units() {
    _wakeport "$@"
    # By hand: bash breaks words at `@` and `=`.
    local word=${COMP_LINE:0:COMP_POINT} user='' all
    word=${word##*[[:space:]]}
    [[ " ${COMP_WORDS[*]} " != *' --user '* ]] || user=--user
    case ${COMP_WORDS[1]}:$3:$word in
        init:--unit:* | run:--unit:* | check:--unit:*)
            all=$(_wakeport_services $user) ;;
        *:--*:* | *:*:-*)
            return ;;
        init:*)
            all=$(_wakeport_services $user) ;;
        check:* | status:*)
            all=$(systemctl $user list-units --all --plain --no-legend 'wakeport@*.socket' 2>/dev/null |
                sed 's/ .*//; s/^wakeport@//; s/\.socket$//') ;;
        *)
            return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$all" -- "$word")
    COMPREPLY=("${COMPREPLY[@]#"${word%"$2"}"}")
}

_wakeport_services() {
    {
        systemctl "$@" list-units --all --plain --no-legend --type=service
        systemctl "$@" list-unit-files --plain --no-legend --type=service
    } 2>/dev/null | sed 's/ .*//; /@\.service$/d; /^wakeport[@-]/d; s/\.service$//' | sort -u
}

complete -F _wakeport_units -o nosort -o bashdefault -o default wakeport 2>/dev/null ||
    complete -F _wakeport_units -o bashdefault -o default wakeport
