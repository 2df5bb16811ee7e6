# The names of units, from systemd: services for `init` and `--unit`, instances for the others.
_wakeport_units() {
    local -a user units
    (( ${words[(I)--user]} )) && user=(--user)
    if [[ $curcontext == *command-(check|status|wake|hold|sleep)* && $words[CURRENT-1] != --unit ]]; then
        units=(${(f)"$(systemctl $user list-units --all --plain --no-legend 'wakeport@*.socket' 2>/dev/null |
            sed 's/ .*//; s/^wakeport@//; s/\.socket$//')"})
    else
        units=(${(f)"$({
            systemctl $user list-units --all --plain --no-legend --type=service
            systemctl $user list-unit-files --plain --no-legend --type=service
        } 2>/dev/null | sed 's/ .*//; /@\.service$/d; /^wakeport[@-]/d; s/\.service$//' | sort -u)"})
    fi
    compadd -a units
}
