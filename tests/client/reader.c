// Prints ts_event_ns, ts_recv_ns and seq of events, one a line, from one JSON message a line: the
// way that INTERFACES.md names for C, tried by test_c.py. A parser for these three keys alone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The integer of a key; a null and a missing key are 0. No text in a message holds a key with its
// quotes, since JSON writes a quote inside text as \".
static unsigned long long integer(const char *event, const char *key) {
    const char *at = strstr(event, key);
    return at == NULL ? 0 : strtoull(at + strlen(key), NULL, 10);
}

int main(void) {
    static char line[8192];
    while (fgets(line, sizeof line, stdin) != NULL)
        printf("%llu %llu %llu %.0f\n", integer(line, "\"ts_event_ns\":"),
               integer(line, "\"ts_recv_ns\":"), integer(line, "\"seq\":"),
               strtod(strstr(line, ":") + 1, NULL));
    return 0;
}
