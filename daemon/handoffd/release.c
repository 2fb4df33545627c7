#include "release.h"

#include <stdlib.h>

#include "paths.h"

#define PATH_DPKG_STATUS "/var/lib/dpkg/status"

static bool parse(const char *text, unsigned ret[static 3]) {
        return sscanf(text, "%u.%u.%u", &ret[0], &ret[1], &ret[2]) == 3;
}

bool release_read(const char *root, unsigned ret[static 3]) {
        CLEANUP(freep) char *path = NULL, *line = NULL;
        bool ours = false, found = false;
        size_t size = 0;
        FILE *f;

        if (path_under(&path, root, PATH_DPKG_STATUS) < 0)
                return false;
        f = fopen(path, "re");
        while (f && !found && getline(&line, &size, f) >= 0) {
                if (strncmp(line, "Package: ", strlen("Package: ")) == 0)
                        ours = streq(line, "Package: aziot-edge\n");
                found = ours && strncmp(line, "Version: ", strlen("Version: ")) == 0 &&
                        parse(line + strlen("Version: "), ret);
        }
        if (f)
                (void) fclose(f);
        return found;
}

bool release_is_least(const unsigned release[static 3], const unsigned least[static 3]) {
        for (size_t i = 0; i < 3; i++)
                if (release[i] != least[i])
                        return release[i] > least[i];
        return true;
}
