"""The few calls of libpq that the benchmarks need, through ctypes.

One client for cdi and its alternatives alike, so that what the client costs
is the same on both sides, with parameters sent as a driver sends them.
"""
import ctypes
import ctypes.util

try:
    lib = ctypes.CDLL("libpq.so.5")
except OSError:
    lib = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so")

for name, result, *arguments in (
        ("PQconnectdb", ctypes.c_void_p, ctypes.c_char_p),
        ("PQstatus", ctypes.c_int, ctypes.c_void_p),
        ("PQerrorMessage", ctypes.c_char_p, ctypes.c_void_p),
        ("PQfinish", None, ctypes.c_void_p),
        ("PQexec", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
        ("PQprepare", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int,
         ctypes.c_void_p),
        ("PQexecPrepared", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int,
         ctypes.POINTER(ctypes.c_char_p), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
        ("PQresultStatus", ctypes.c_int, ctypes.c_void_p),
        ("PQresultErrorMessage", ctypes.c_char_p, ctypes.c_void_p),
        ("PQntuples", ctypes.c_int, ctypes.c_void_p),
        ("PQnfields", ctypes.c_int, ctypes.c_void_p),
        ("PQgetisnull", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        ("PQgetvalue", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        ("PQclear", None, ctypes.c_void_p),
        ("PQputCopyData", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int),
        ("PQputCopyEnd", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p),
        ("PQgetResult", ctypes.c_void_p, ctypes.c_void_p)):
    function = getattr(lib, name)
    function.restype = result
    function.argtypes = arguments

COMMAND_OK, TUPLES_OK, COPY_IN = 1, 2, 4


class Error(Exception):
    pass


class Connection:
    def __init__(self, conninfo=""):
        self.conn = lib.PQconnectdb(conninfo.encode())
        if lib.PQstatus(self.conn) != 0:
            raise Error(lib.PQerrorMessage(self.conn).decode().strip())
        self("SET client_min_messages = warning")

    def close(self):
        lib.PQfinish(self.conn)

    def _rows(self, result, wanted=(COMMAND_OK, TUPLES_OK)):
        try:
            if lib.PQresultStatus(result) not in wanted:
                raise Error(lib.PQresultErrorMessage(result).decode().strip())
            return [tuple(None if lib.PQgetisnull(result, row, column)
                          else lib.PQgetvalue(result, row, column).decode()
                          for column in range(lib.PQnfields(result)))
                    for row in range(lib.PQntuples(result))]
        finally:
            lib.PQclear(result)

    def __call__(self, sql):
        """Run SQL, several statements as one transaction; the rows of the last."""
        return self._rows(lib.PQexec(self.conn, sql.encode()))

    def value(self, sql):
        return self(sql)[0][0]

    def prepare(self, name, sql):
        self._rows(lib.PQprepare(self.conn, name.encode(), sql.encode(), 0, None))

    def execute(self, name, *parameters):
        """A prepared statement; parameters are bytes."""
        values = (ctypes.c_char_p * len(parameters))(*parameters)
        return self._rows(lib.PQexecPrepared(self.conn, name.encode(), len(parameters), values, None, None, 0))

    def copy(self, sql, chunks):
        """COPY ... FROM STDIN with data made before (bytes)."""
        self._rows(lib.PQexec(self.conn, sql.encode()), (COPY_IN,))
        for chunk in chunks:
            if lib.PQputCopyData(self.conn, chunk, len(chunk)) != 1:
                raise Error(lib.PQerrorMessage(self.conn).decode().strip())
        lib.PQputCopyEnd(self.conn, None)
        result = lib.PQgetResult(self.conn)
        while result:
            self._rows(result)
            result = lib.PQgetResult(self.conn)
