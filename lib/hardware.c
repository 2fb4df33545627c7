#include "hardware.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#define VALUE_MAX    ((size_t) 4096) /* an attribute of sysfs has a page */
#define ARP_ETHERNET "1"

/* The first line without blanks around it; -ENOENT also for an empty one. */
static int read_value(char **ret, const char *root, const char *directory, const char *name) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        const char *start;
        size_t length;
        int r;

        if (asprintf(&path, "%s%s/%s", root ? root : "", directory, name) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        r = read_file(path, VALUE_MAX, &text, NULL);
        if (r < 0)
                return r == -ENOMEM ? r : -ENOENT;
        start = text + strspn(text, " \t\r\n");
        length = strcspn(start, "\r\n");
        while (length > 0 && (start[length - 1] == ' ' || start[length - 1] == '\t'))
                length--;
        if (length == 0)
                return -ENOENT;
        *ret = strndup(start, length);
        return *ret ? 0 : -ENOMEM;
}

int hardware_serial_number(char **ret, const char *root) {
        int r = read_value(ret, root, "/sys/class/dmi/id", "product_serial");

        return r == -ENOENT ? read_value(ret, root, "/sys/firmware/devicetree/base", "serial-number") : r;
}

/* Bridges, tunnels and the loopback have no device behind them. */
static int read_interface(char **ret_mac, uint64_t *ret_index, const char *root, const char *name) {
        CLEANUP(freep) char *directory = NULL, *device = NULL, *type = NULL, *index = NULL;
        int r;

        if (asprintf(&directory, "/sys/class/net/%s", name) < 0) {
                directory = NULL;
                return -ENOMEM;
        }
        if (asprintf(&device, "%s%s/device", root ? root : "", directory) < 0) {
                device = NULL;
                return -ENOMEM;
        }
        if (access(device, F_OK) < 0)
                return -ENOENT;
        r = read_value(&type, root, directory, "type");
        if (r >= 0)
                r = read_value(&index, root, directory, "ifindex");
        if (r < 0)
                return r;
        if (!streq(type, ARP_ETHERNET) || parse_uint(index, INT_MAX, ret_index) < 0)
                return -ENOENT;
        return read_value(ret_mac, root, directory, "address");
}

/* The lowest index is the device that the kernel found first. */
static int read_mac(char **ret, const char *root) {
        CLEANUP(freep) char *path = NULL, *best = NULL;
        uint64_t best_index = UINT64_MAX;
        DIR *d;
        int r = 0;

        if (asprintf(&path, "%s/sys/class/net", root ? root : "") < 0) {
                path = NULL;
                return -ENOMEM;
        }
        d = opendir(path);
        if (!d)
                return -ENOENT;
        for (struct dirent *entry; (entry = readdir(d));) {
                CLEANUP(freep) char *mac = NULL;
                uint64_t index = 0;

                if (entry->d_name[0] == '.')
                        continue;
                r = read_interface(&mac, &index, root, entry->d_name);
                if (r == -ENOMEM)
                        break;
                if (r < 0 || index >= best_index)
                        continue;
                free(best);
                best = TAKE(mac);
                best_index = index;
        }
        (void) closedir(d);
        if (r == -ENOMEM || !best)
                return r == -ENOMEM ? r : -ENOENT;
        *ret = TAKE(best);
        return 0;
}

int hardware_read(Hardware *ret, const char *root) {
        CLEANUP(hardware_deinit) Hardware h = {};
        char host_name[HOST_NAME_MAX + 1] = "";

        if (hardware_serial_number(&h.serial_number, root) == -ENOMEM ||
            read_value(&h.asset, root, "/sys/class/dmi/id", "chassis_asset_tag") == -ENOMEM ||
            read_mac(&h.mac, root) == -ENOMEM)
                return -ENOMEM;
        (void) gethostname(host_name, sizeof(host_name) - 1);
        if (host_name[0]) {
                h.host_name = strdup(host_name);
                if (!h.host_name)
                        return -ENOMEM;
        }
        *ret = h;
        h = (Hardware){};
        return 0;
}

void hardware_deinit(Hardware *h) {
        free(h->serial_number);
        free(h->mac);
        free(h->host_name);
        free(h->asset);
        *h = (Hardware){};
}
