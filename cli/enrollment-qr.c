/* "dps-provision enrollment --format=qr": what a phone or a label printer takes. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "enrollment-cli.h"
#include "identity.h"
#include "project.h"

QrForm qr_form_from_path(const char *path) {
        const char *dot = strrchr(path, '.');

        if (dot && streq(dot, ".svg"))
                return QR_SVG;
        if (dot && streq(dot, ".png"))
                return QR_PNG;
        return _QR_FORM_INVALID;
}

#if HAVE_QR

#include <png.h>
#include <qrencode.h>
#include <sys/ioctl.h>

#define QUIET 4 /* modules of white around it: ISO/IEC 18004, 9.1 */
#define SCALE 8 /* pixels for a module */

static void qr_freep(QRcode **qr) {
        QRcode_free(*qr);
}

static bool is_dark(const QRcode *qr, int x, int y) {
        return x >= 0 && y >= 0 && x < qr->width && y < qr->width && (qr->data[y * qr->width + x] & 1);
}

/* The blocks are the light modules: on a terminal with a dark background that is how it looks right, and the
 * colours make sure of it where there are any. */
static int to_blocks(Bytes *ret, const QRcode *qr, bool coloured) {
        static const char *const blocks[] = { " ", "▄", "▀", "█" };
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return -ENOMEM;
        for (int y = -QUIET; y < qr->width + QUIET; y += 2) {
                if (coloured)
                        (void) fputs("\033[40;97m", f);
                for (int x = -QUIET; x < qr->width + QUIET; x++)
                        (void) fputs(blocks[2 * !is_dark(qr, x, y) +
                                            (!is_dark(qr, x, y + 1) && y + 1 < qr->width + QUIET)],
                                     f);
                (void) fputs(coloured ? "\033[0m\n" : "\n", f);
        }
        if (fclose(f) != 0)
                return -ENOMEM;
        *ret = (Bytes){ .data = (uint8_t *) TAKE(text), .size = size };
        return 0;
}

/* Lengths are in modules, so it can be printed in any size. */
static int to_svg(Bytes *ret, const QRcode *qr) {
        int width = qr->width + 2 * QUIET;
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return -ENOMEM;
        (void) fprintf(f,
                       "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                       "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                       "viewBox=\"0 0 %d %d\" shape-rendering=\"crispEdges\">\n"
                       "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n<path d=\"",
                       width * SCALE, width * SCALE, width, width, width, width);
        for (int y = 0; y < qr->width; y++)
                for (int x = 0; x < qr->width; x++)
                        if (is_dark(qr, x, y))
                                (void) fprintf(f, "M%d %dh1v1h-1z", x + QUIET, y + QUIET);
        (void) fputs("\"/>\n</svg>\n", f);
        if (fclose(f) != 0)
                return -ENOMEM;
        *ret = (Bytes){ .data = (uint8_t *) TAKE(text), .size = size };
        return 0;
}

static int to_png(Bytes *ret, const QRcode *qr) {
        png_uint_32 width = (png_uint_32) (qr->width + 2 * QUIET) * SCALE;
        png_image image = {
                .version = PNG_IMAGE_VERSION, .width = width, .height = width, .format = PNG_FORMAT_GRAY
        };
        CLEANUP(bytes_deinit) Bytes png = {};
        CLEANUP(freep) uint8_t *pixels = malloc((size_t) width * width);

        if (!pixels)
                return -ENOMEM;
        for (png_uint_32 y = 0; y < width; y++)
                for (png_uint_32 x = 0; x < width; x++)
                        pixels[(size_t) y * width + x] =
                                is_dark(qr, (int) (x / SCALE) - QUIET, (int) (y / SCALE) - QUIET) ? 0 : 255;
        png.size = PNG_IMAGE_PNG_SIZE_MAX(image);
        png.data = malloc(png.size);
        if (!png.data)
                return -ENOMEM;
        if (!png_image_write_to_memory(&image, png.data, &png.size, 0, pixels, 0, NULL))
                return -EIO;
        *ret = png;
        png = (Bytes){};
        return 0;
}

static int draw(Bytes *ret, const QRcode *qr, const char *output) {
        const char *no_color = getenv("NO_COLOR");

        switch (output ? qr_form_from_path(output) : QR_TERMINAL) {
        case QR_SVG:
                return to_svg(ret, qr);
        case QR_PNG:
                return to_png(ret, qr);
        default:
                return to_blocks(ret, qr, !output && isatty(STDOUT_FILENO) && !(no_color && no_color[0]));
        }
}

/* What is wrapped can't be read. */
static void warn_of_width(const QRcode *qr) {
        struct winsize size;

        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 &&
            size.ws_col < qr->width + 2 * QUIET)
                (void) fprintf(
                        stderr,
                        "dps-provision: Warning: the code is %d columns wide and this terminal %d. Make it "
                        "wider, or write a file with --output=FILE.png.\n",
                        qr->width + 2 * QUIET, size.ws_col);
}

int enrollment_qr(const char *output, const char *text) {
        CLEANUP(qr_freep) QRcode *qr = NULL;
        CLEANUP(bytes_deinit) Bytes drawn = {};
        int r;

        /* a label gets scratched; a whole enrolment needs the room */
        qr = QRcode_encodeString8bit(text, 0,
                                     strlen(text) <= REGISTRATION_ID_MAX ? QR_ECLEVEL_M : QR_ECLEVEL_L);
        if (!qr)
                return report_errno(errno == ERANGE ? E2BIG : errno, "The QR code can't be made");
        if (!output)
                warn_of_width(qr);
        r = draw(&drawn, qr, output);
        return r < 0 ? report_errno(r, "The QR code can't be drawn")
                     : enrollment_write(output, drawn.data, drawn.size);
}

#else

int enrollment_qr(const char *output, const char *text) {
        (void) fputs("dps-provision: This build makes no QR codes (it was configured with -Dqr=disabled, or "
                     "without libqrencode and libpng).\nPass what --format=json prints to a program that "
                     "does.\n",
                     stderr);
        return EXIT_FAILED;
}

#endif
