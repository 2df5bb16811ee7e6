
# The names of units, from systemd: services for `init` and `--unit`, instances for the others.
_wakeport_units() {
    # By hand, since bash breaks words at `@` and `=` as well.
    local word=${COMP_LINE:0:COMP_POINT} previous=$3 user='' all
    word=${word##*[[:space:]]}
    if [[ $word == --*=* ]]; then
        previous=${word%%=*} word=${word#*=}
    fi
    _wakeport "$1" "$2" "$previous"
    [[ " ${COMP_WORDS[*]} " != *' --user '* ]] || user=--user
    case ${COMP_WORDS[1]}:$previous:$word in
        init:--unit:* | run:--unit:* | check:--unit:*)
            all=$(_wakeport_services $user) ;;
        *:--*:* | *:*:-*)
            return ;;
        init:*)
            all=$(_wakeport_services $user) ;;
        check:* | status:* | wake:* | hold:* | sleep:*)
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
