# Completion of dps-provision(1) for fish. Verbs and options are what the program's own help names.

function __dps_provision_verb
    set -l words (commandline -opc)
    test (count $words) -gt 1; and echo $words[2]
end

function __dps_provision_verbs
    dps-provision --help 2>/dev/null | string replace -rf '^  ([a-z-]+) +(.*)' '$1\t$2'
    printf '%s\n' --help --version
end

# The value of an option is a part of its word.
function __dps_provision_options
    set -l verb (__dps_provision_verb)
    set -l current (commandline -ct)
    switch $current
        case '--format=*'
            dps-provision enrollment --help 2>/dev/null | string replace -rf '^ +(--format=[a-z]+) +(.*)' '$1\t$2'
        case '--tcti=*'
            echo --tcti=device:/dev/tpmrm0
        case '--config=*' '--output=*' '--station=*'
            printf '%s\n' (string replace -r '=.*' '=' -- $current)(__fish_complete_path (string replace -r '^[^=]*=' '' -- $current))
        case '--ca-dir=*' '--root=*'
            printf '%s\n' (string replace -r '=.*' '=' -- $current)(__fish_complete_directories (string replace -r '^[^=]*=' '' -- $current) '')
        case '*'
            dps-provision $verb --help 2>/dev/null | string replace -rf '^ +(--.*)' '$1' | string replace -r '  +.*' '' | string match -ra -- '--[a-z][a-z-]*=?' | sort -u
            echo --help
    end
end

complete -c dps-provision -f
complete -c dps-provision -n 'test -z (__dps_provision_verb)' -a '(__dps_provision_verbs)'
complete -c dps-provision -n 'test -n (__dps_provision_verb)' -a '(__dps_provision_options)'
complete -c dps-provision -n 'contains -- --merge (commandline -opc)' -F
