#include "device-unit.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define DEFAULT_NODE "/dev/tpmrm0"
#define ESCAPED_SIZE 4u /* "\x2d" */

static size_t escape(char *to, const char *path, size_t at) {
        const char c = path[at];

        if (c == '/')
                to[0] = '-';
        else if (isalnum((unsigned char) c) || c == '_' || c == ':' || (c == '.' && at > 0))
                to[0] = c;
        else
                return (size_t) sprintf(to, "\\x%02x", (unsigned char) c);
        return 1;
}

int device_unit_name(char **ret, const char *tcti) {
        const char *path = DEFAULT_NODE;
        size_t length = 0;
        char *name;

        if (tcti && strncmp(tcti, "device:", strlen("device:")) == 0 && tcti[strlen("device:")])
                path = tcti + strlen("device:");
        else if (tcti && !streq(tcti, "") && !streq(tcti, "device") && !streq(tcti, "device:"))
                return -ENOENT;
        path += strspn(path, "/");
        name = malloc(ESCAPED_SIZE * strlen(path) + sizeof(".device"));
        if (!name)
                return -ENOMEM;
        for (size_t i = 0; path[i]; i++)
                length += escape(name + length, path, i);
        memcpy(name + length, ".device", sizeof(".device"));
        *ret = name;
        return 0;
}
