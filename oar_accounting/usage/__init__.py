"""What stands to the account of whom in which part of time, for queries and reports.

Karma, which weighs time, and utilisation, which follows the machine, add up by themselves.

Time is cut into parts that follow each other. Four sources tell amounts: totals of the site's
windows (and days), spans times rates of jobs, opening amounts (evenly over OAR's window), and
adjustments (evenly over the span that they were posted for). What lies within a part as a whole is
summed by the database. Where a bound cuts a window, the jobs of that window tell by the second on
which side of it they used what; the longest piece of the window is what they leave of its total.

Measured entries lie evenly over their window. Amounts carried of purged jobs are whole in windows:
they stand in the part in which their window begins. Where jobs are told apart, what is kept of each
purged one by day takes their place.
"""
