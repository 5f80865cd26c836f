_cdtool_completion() {
    local IFS=$'\n' words=() word last n
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        n=$(( ${#words[@]} - 1 ))
        if (( n >= 0 )) && [[ $word == :* || ${words[n]} == *: ]]; then
            words[n]+=$word
        else
            words+=("$word")
        fi
    done
    n=$(( ${#words[@]} - 1 ))
    last=${words[n]}
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" COMP_CWORD=$n _CDTOOL_COMPLETE=complete_bash $1 ) )
    COMPREPLY=( "${COMPREPLY[@]#"${last%"${last##*:}"}"}" )
    return 0
}

complete -o default -F _cdtool_completion cdtool
