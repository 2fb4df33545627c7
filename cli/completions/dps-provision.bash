# shellcheck shell=bash
# Completion of dps-provision(1) for bash. Verbs and options are what the program's own help names.

_dps_provision_verbs() {
        dps-provision --help 2>/dev/null | sed -nE 's/^  ([a-z-]+) .*/\1/p'
}

# One that takes a value ends in "=".
_dps_provision_options() {
        dps-provision "$1" --help 2>/dev/null | sed -nE 's/^ +(--.*)/\1/p' | sed -E 's/  +.*//' |
                grep -oE -- '--[a-z][a-z-]*=?' | sort -u
        echo --help
}

_dps_provision_formats() {
        dps-provision enrollment --help 2>/dev/null | sed -nE 's/^ +--format=([a-z]+) .*/\1/p'
}

_dps_provision() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]} option=

        COMPREPLY=()
        if [ "$COMP_CWORD" -eq 1 ]; then
                mapfile -t COMPREPLY < <(compgen -W "$(_dps_provision_verbs) --help --version" -- "$cur")
                return
        fi
        # to bash "=" is a word of its own
        if [ "$cur" = = ]; then
                option=$prev cur=
        elif [ "$prev" = = ]; then
                option=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        case "$option" in
        --format)
                mapfile -t COMPREPLY < <(compgen -W "$(_dps_provision_formats)" -- "$cur")
                ;;
        --tcti)
                mapfile -t COMPREPLY < <(compgen -W "device:/dev/tpmrm0" -- "$cur")
                ;;
        --config | --output | --station)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                ;;
        --ca-dir | --root)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -d -- "$cur")
                ;;
        '')
                if [[ $cur == -* ]]; then
                        mapfile -t COMPREPLY < <(compgen -W "$(_dps_provision_options "$verb")" -- "$cur")
                        [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace
                elif [[ " ${COMP_WORDS[*]} " == *" --merge "* ]]; then
                        compopt -o filenames
                        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                fi
                ;;
        esac
}

complete -F _dps_provision dps-provision
